package operator

import (
	"slices"
	"testing"
)

func TestEndpointsOfOneNameAreToldApart(t *testing.T) {
	got := Distinct(
		[]string{"vm", "db", "vm", "vm", ""},
		[]string{"01a20b84-7dcb-1", "01a20b84-7dcb-9", "01a20b84-7dcc-1", "99999999-0000-1", "x"})
	want := []string{"vm (01a20b84-7dcb)", "db", "vm (01a20b84-7dcc)", "vm (99999999)", ""}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if same := Distinct([]string{"vm", "vm"}, []string{"a", "a"}); !slices.Equal(same, []string{"vm (a)", "vm (a)"}) {
		t.Errorf("%q", same)
	}
}
