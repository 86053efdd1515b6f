package selfcheck

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"gururmm/wire"
)

// notAges are durations that do not grow while nothing happens.
var notAges = map[string]bool{
	"Link.TCP.RTT": true, "Link.TCP.RTTVar": true,
	"Link.Ledger.RTT": true, "Clock.Offset": true, "Suspend.Length": true,
	"Link.Ledger.Up.Age": true, "Link.Ledger.Excess.Age": true, // only fresh ledgers make them older
	"Worker.Silent": true, "Worker.NextStart": true, "OOB.LastOK": true, "OOB.ViewAge": true, // the guardian's own: as of now already
}

// walk calls f for each duration reachable from v, making what is missing on the way.
func walk(v reflect.Value, path string, f func(path string, d reflect.Value)) {
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		walk(v.Elem(), path, f)
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			return
		}
		for i := range v.NumField() {
			walk(v.Field(i), strings.TrimPrefix(path+"."+v.Type().Field(i).Name, "."), f)
		}
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Struct {
			if v.Len() == 0 {
				v.Set(reflect.MakeSlice(v.Type(), 1, 1))
			}
			walk(v.Index(0), path, f)
		}
	case reflect.Int64:
		if v.Type() == reflect.TypeFor[time.Duration]() {
			f(path, v)
		}
	}
}

func TestEveryAgeOfASnapshotGrows(t *testing.T) {
	var s Snapshot
	walk(reflect.ValueOf(&s), "", func(_ string, d reflect.Value) { d.SetInt(int64(time.Minute)) })
	s.Loops = map[string]LoopFacts{"reader": {Pending: new(time.Minute)}}
	old := s.Aged(time.Second)
	walk(reflect.ValueOf(&old), "", func(path string, d reflect.Value) {
		want := time.Minute + time.Second
		switch {
		case path == "Link.NextDial":
			want = time.Minute - time.Second
		case notAges[path] || strings.HasPrefix(path, "OOB.View."):
			want = time.Minute
		}
		if got := time.Duration(d.Int()); got != want {
			t.Errorf("%s is %v after a second, want %v", path, got, want)
		}
	})
	if got := *old.Loops["reader"].Pending; got != time.Minute+time.Second {
		t.Errorf("a loop's token is %v, want it older", got)
	}
	walk(reflect.ValueOf(&s), "", func(path string, d reflect.Value) {
		if time.Duration(d.Int()) != time.Minute {
			t.Errorf("%s of the original was changed", path)
		}
	})
}

func TestSameMissesNoChange(t *testing.T) {
	facts := func(age time.Duration) (s Snapshot) {
		walk(reflect.ValueOf(&s), "", func(path string, d reflect.Value) {
			if !notAges[path] {
				d.SetInt(int64(age))
			}
		})
		s.Link.NextDial = nil
		return s
	}
	if !facts(time.Minute).Same(facts(time.Hour)) {
		t.Error("ages alone are taken for a change")
	}
	moved := facts(time.Minute)
	moved.Link.TCP.Received, moved.Link.TCP.Window = new(uint64(10)), new(uint64(20))
	if !moved.Same(facts(time.Minute)) {
		t.Error("the kernel's counters are taken for a change")
	}
	for name, change := range map[string]func(*Snapshot){
		"jobs' limit":    func(s *Snapshot) { s.Jobs.Limit++ },
		"alternatives":   func(s *Snapshot) { s.Link.Alternatives++ },
		"refusal":        func(s *Snapshot) { s.RejectedCode = wire.CodeBusy },
		"broken stream":  func(s *Snapshot) { s.Link.In.Broken = "reserved opcode" },
		"a job's id":     func(s *Snapshot) { s.Jobs.Jobs[0].ID = "another" },
		"an age is gone": func(s *Snapshot) { s.Link.VerifiedAge = nil },
		"a gap":          func(s *Snapshot) { s.Link.Ledger.Down.Missing++ },
	} {
		s := facts(time.Minute)
		if change(&s); s.Same(facts(time.Minute)) {
			t.Errorf("%s: passes for the same", name)
		}
	}
}
