package state

import (
	"strings"
	"testing"

	"golang.org/x/sys/windows"
)

func TestWhoAnAccessListLetsIn(t *testing.T) {
	_, self, err := private()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		list string // SDDL
		open bool
	}{
		"ours":                   {"D:P(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)(A;OICI;FA;;;" + self.String() + ")", false},
		"as the doctor advises":  {"D:P(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)", false},
		"users may look":         {"D:P(A;OICI;FA;;;SY)(A;OICI;FR;;;BU)", true},
		"everybody, passed down": {"D:(A;OICIID;FR;;;WD)", true},
		"guests may not":         {"D:P(D;OICI;FA;;;BG)(A;OICI;FA;;;BA)", false},
		"nobody at all":          {"D:P", false},
		"no list is for all":     {"O:BA", true},
	} {
		sd, err := windows.SecurityDescriptorFromString(c.list)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got := openToOthers(sd, self); got != c.open {
			t.Errorf("%s (%s): lets others in %v, want %v", name, c.list, got, c.open)
		}
	}
}

func TestAdviceIsOfThisPlatform(t *testing.T) {
	dir := `C:\ProgramData\Guru RMM\Agent`
	if by := PrivateBy(dir); strings.Contains(by, "chmod") || strings.Count(by, `icacls "`+dir+`" `) != 2 {
		t.Errorf("to make it private: %s", by)
	}
}
