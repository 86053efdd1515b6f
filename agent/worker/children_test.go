package worker

import (
	"slices"
	"testing"
)

func TestChildrenLeftAreNamed(t *testing.T) {
	var c children
	release := make(chan struct{})
	c.Go("reporter", func() { <-release })
	c.Go("link", func() { <-release })
	c.Go("link", func() { <-release })
	if got := c.left(); !slices.Equal(got, []string{"link", "reporter"}) {
		t.Errorf("left %q", got)
	}
	close(release)
	c.Wait()
	if got := c.left(); len(got) != 0 {
		t.Errorf("left %q after the end", got)
	}
}
