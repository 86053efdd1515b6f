package selfcheck

import (
	"fmt"
	"strings"
	"time"
)

// findings stand beside a verdict: true, worth knowing, no fault of the link.
var findings = []struct {
	code          Code
	title, action string
	look          func(f *facts) string // the sentence; empty: not so
}{
	{
		FindClockSkew, "The clock is wrong",
		"Set the clock, or the time service; the agent corrects for it meanwhile.",
		func(f *facts) string {
			off := f.Clock.Offset
			if off == nil || (*off).Abs() <= skewLimit {
				return ""
			}
			way := "behind"
			if *off < 0 {
				way = "ahead of"
			}
			return fmt.Sprintf("This machine's clock is %s %s the server's.", span((*off).Abs()), way)
		},
	},
	{
		FindPingsRewritten, "Pings are rewritten on the way",
		"None: heartbeats carry the account instead. Tell the network's owner, if it matters.",
		func(f *facts) string {
			if !f.opened() || !f.rewritten() {
				return ""
			}
			last, ok := f.lastText()
			if !ok || last > f.dead() {
				return ""
			}
			l := &f.Link.Ledger
			return fmt.Sprintf("A box on the way changes pings (%d without a ledger, %d pongs changed); text goes well, the last came %s ago.", l.Foreign, l.Stripped, span(last))
		},
	},
	{
		FindSuspendResumed, "The machine slept", "None.",
		func(f *facts) string {
			if f.Suspend == nil {
				return ""
			}
			age := f.Suspend.Age + f.carried
			if age >= resumedShown {
				return ""
			}
			f.within(resumedShown - age)
			return fmt.Sprintf("This machine did not run for %s, until %s ago.", span(f.Suspend.Length), span(age))
		},
	},
	{
		FindRefused, "A message was refused a while ago",
		"None, if it does not come again; the agent's log names the message.",
		refusedBefore,
	},
	{
		FindQuarantined, "A damaged file was set aside",
		"Look at the file and delete it; commands that were running are reported interrupted.",
		func(f *facts) string {
			switch d := f.Disk; {
			case f.Jobs.Quarantined != "":
				return "A damaged file was set aside at the start: " + f.Jobs.Quarantined + "."
			case d != nil && len(d.SetAside) > 0:
				return "Damaged files were set aside in the state directory: " + strings.Join(d.SetAside, ", ") + "."
			}
			return ""
		},
	},
	{
		FindDiskFull, "The disk is almost full",
		"Free the disk that holds the state directory, before commands have to be refused and output is cut.",
		func(f *facts) string {
			d := f.Disk
			if d == nil || d.Total == 0 || d.Free >= diskLow {
				return ""
			}
			return fmt.Sprintf("The disk of the state directory has %d MiB of %d left: soon commands are refused and output is cut.", d.Free>>20, d.Total>>20)
		},
	},
}

func (f *facts) findings() []Finding {
	var out []Finding
	for _, d := range findings {
		if !f.known && d.code != FindDiskFull && d.code != FindQuarantined { // of which the guardian knows by itself
			continue
		}
		if sentence := d.look(f); sentence != "" {
			out = append(out, Finding{Code: d.code, Sentence: sentence})
		}
	}
	return out
}

// rewritten reports whether the peer's pings, or the pongs to ours, come changed.
func (f *facts) rewritten() bool {
	l := &f.Link.Ledger
	if f.Link.Plain {
		return false
	}
	unanswered, known := f.lasted(l.UnansweredAge)
	return l.Foreign > 0 || l.Stripped > 0 || known && unanswered > f.grace(minGapGrace, gapRoundTrips)
}

// lastText is how long ago a text came in, by the tap or by a ledger that rode in one.
func (f *facts) lastText() (last time.Duration, ok bool) {
	last, ok = f.age(f.Link.In.TextAge)
	if l := &f.Link.Ledger; l.PeerVia == ViaText {
		if d, known := f.age(l.PeerAge); known && (!ok || d < last) {
			last, ok = d, true
		}
	}
	return last, ok
}

// pinged is how long ago the peer's ledger came in a ping; ok is false if the
// last one did not.
func (f *facts) pinged() (d time.Duration, ok bool) {
	if f.Link.Ledger.PeerVia != ViaPing {
		return 0, false
	}
	return f.age(f.Link.Ledger.PeerAge)
}
