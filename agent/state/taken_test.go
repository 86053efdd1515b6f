package state

import "testing"

func TestWhatAnInstallationLeavesIsNotSomebodyElses(t *testing.T) {
	ours := func(string) bool { return true }
	others := func(string) bool { return false }
	for _, c := range []struct {
		names  []string
		shared bool
		own    func(string) bool
		taken  bool
	}{
		{nil, false, ours, false},
		{[]string{"agent.yaml"}, false, others, false},
		{[]string{"enroll.conf", "log", "package.note"}, false, ours, false},
		{[]string{"enroll.conf"}, false, others, true}, // who has put it there would name the server
		{[]string{"enroll.conf"}, true, ours, true},
		{[]string{"enroll.conf", "letters"}, false, ours, true},
		{[]string{"identity.json", "letters"}, false, ours, false},
		{[]string{"identity.json"}, false, others, true},
	} {
		if got := taken(c.names, c.shared, c.own); got != c.taken {
			t.Errorf("%q, shared %v: taken %v, want %v", c.names, c.shared, got, c.taken)
		}
	}
}
