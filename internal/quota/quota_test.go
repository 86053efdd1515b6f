package quota_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"gururmm/internal/quota"
)

func TestEachHasAShareOfItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []string
		b := quota.New(map[string]quota.Limit{"calls": {Rate: 2, Burst: 4}, "free": {}}, func(key, what string) {
			told = append(told, key+" "+what)
		})
		for range 4 {
			if wait := b.Of("a").Try("calls", 1); wait != 0 {
				t.Fatalf("within the burst: wait %v", wait)
			}
		}
		for range 10 { // refused ones cost nothing
			if wait := b.Of("a").Try("calls", 1); wait != 500*time.Millisecond {
				t.Fatalf("beyond the burst: wait %v", wait)
			}
		}
		if b.Of("b").Try("calls", 4) != 0 || b.Of("a").Try("free", 1<<20) != 0 || b.Of("a").Try("unknown", 1<<20) != 0 {
			t.Error("another one, or another thing, is limited too")
		}
		if got := b.Exceeded(); got["calls"] != 10 || got["free"] != 0 || len(told) != 1 || told[0] != "a calls" {
			t.Errorf("counted %v, told %q", got, told)
		}
		time.Sleep(time.Minute)
		if wait := b.Of("a").Owe("calls", 100); wait != 0 { // as large as a burst
			t.Errorf("a burst after a minute: wait %v", wait)
		}
		for i := range 3 {
			if wait := b.Of("a").Owe("calls", 1); wait != time.Duration(i+1)*500*time.Millisecond {
				t.Errorf("owed %d: wait %v", i+1, wait)
			}
		}
		if len(told) != 2 {
			t.Errorf("told %q", told)
		}
	})
}

func TestTheIdleAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := quota.New(map[string]quota.Limit{"calls": {Rate: 0.0001, Burst: 1}}, nil)
		held := b.Of("held")
		held.Hold()
		for i := range 1000 {
			b.Of(fmt.Sprint(i)).Try("calls", 1)
		}
		time.Sleep(11 * time.Minute)
		if b.Of("0").Try("calls", 1) != 0 {
			t.Error("one that did nothing for long was not forgotten")
		}
		if b.Of("held") != held {
			t.Error("one that is held was forgotten")
		}
		held.Release()
		time.Sleep(11 * time.Minute)
		b.Of("0")
		if b.Of("held") == held {
			t.Error("one that was released was not forgotten")
		}
	})
}

func TestNoBookNoLimit(t *testing.T) {
	var b *quota.Book
	if b.Of("a").Try("calls", 1<<30) != 0 || b.Of("a").Owe("calls", 1<<30) != 0 {
		t.Error("limited")
	}
	b.Of("a").Hold()
	b.Of("a").Release()
}
