package uptime

import (
	"testing"
	"time"
)

func TestUptimeGoesOn(t *testing.T) {
	first, ok := Get()
	if !ok {
		t.Fatal("this system does not say how long it is up")
	}
	time.Sleep(20 * time.Millisecond)
	if second, _ := Get(); second-first < 20*time.Millisecond {
		t.Errorf("up %v, 20 ms later %v", first, second)
	}
}
