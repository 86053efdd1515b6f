package selfcheck

import (
	"maps"
	"reflect"
	"slices"
	"time"
)

// Aged gives s as it is d after it was taken, if nothing happened since: each
// age has grown, each wait has shrunk. What is the guardian's own (Worker, OOB) is
// as of now already, and gaps upwards and excesses age by fresh ledgers only. It
// changes nothing that s refers to.
func (s Snapshot) Aged(d time.Duration) Snapshot {
	s = s.withAges(func(age time.Duration) time.Duration { return age + d })
	s.Taken = s.Taken.Add(d)
	if s.Link.NextDial != nil {
		s.Link.NextDial = new(max(0, *s.Link.NextDial-d))
	}
	return s
}

// Same reports whether s tells what o told: whether nothing but ages and the
// kernel's counters has changed.
func (s Snapshot) Same(o Snapshot) bool {
	timeless := func(s Snapshot) Snapshot {
		s = s.withAges(func(time.Duration) time.Duration { return 0 })
		s.Taken = time.Time{}
		// Its counters run on by themselves. What of it matters at once is told apart:
		// see TCPFacts.Quiet.
		s.Link.TCP = nil
		return s
	}
	return reflect.DeepEqual(timeless(s), timeless(o))
}

// withAges gives a copy of s whose ages are what change makes of them; one that
// is not known stays so.
func (s Snapshot) withAges(change func(time.Duration) time.Duration) Snapshot {
	changed := func(ages ...**time.Duration) {
		for _, p := range ages {
			if *p != nil {
				*p = new(change(**p))
			}
		}
	}
	link := &s.Link
	l := &link.Ledger
	changed(&s.UndecodedAge, &s.RejectedAge,
		&link.PhaseAge, &link.VerifiedAge, &link.TextTripAge, &link.HeartbeatPending,
		&l.PeerAge, &l.AlteredAge, &l.ClosedAge, &l.OwedAge, &l.UnansweredAge, &l.PongAge, &l.PingPending)
	for _, t := range []*TapView{&link.In, &link.Out} {
		changed(&t.AnyAge, &t.TextAge, &t.PingAge, &t.PongAge, &t.OpenFragment, &t.FragmentIdle, &t.PartialFrame)
	}
	if link.TCP != nil {
		tcp := *link.TCP
		link.TCP = &tcp
		changed(&tcp.SentAge, &tcp.ReceivedAge)
	}
	if l.Down != nil {
		down := *l.Down
		down.Age = change(down.Age)
		l.Down = &down
	}
	link.Recent = slices.Clone(link.Recent)
	for i := range link.Recent {
		link.Recent[i].Age = change(link.Recent[i].Age)
	}
	s.Loops = maps.Clone(s.Loops)
	for name, loop := range s.Loops {
		changed(&loop.Pending)
		s.Loops[name] = loop
	}
	s.Jobs.Jobs = slices.Clone(s.Jobs.Jobs)
	for i := range s.Jobs.Jobs {
		s.Jobs.Jobs[i].Age = change(s.Jobs.Jobs[i].Age)
	}
	if s.Suspend != nil {
		s.Suspend = &SuspendFacts{Length: s.Suspend.Length, Age: change(s.Suspend.Age)}
	}
	return s
}
