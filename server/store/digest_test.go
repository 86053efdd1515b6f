package store

import "testing"

// Rows count in any order; another value, kind or border between two is another sum.
func TestDigest(t *testing.T) {
	sum := func(rows ...[]any) [4]uint64 {
		var d digest
		for _, r := range rows {
			if err := d.add(r); err != nil {
				t.Fatal(err)
			}
		}
		return d.sum
	}
	a, b := []any{"x", int64(1), nil, true}, []any{"y", int64(-1), []byte{}, false}
	if sum(a, b) != sum(b, a) {
		t.Error("the order counts")
	}
	for _, other := range [][]any{
		{"x", int64(1), nil, false}, {"x", int64(2), nil, true}, {"x", int64(1), "", true}, {"x", int64(1), []byte{}, true},
		{[]byte("x"), int64(1), nil, true}, {"", int64(1), "x", true},
	} {
		if sum(a, b) == sum(other, b) {
			t.Errorf("%v sums up as %v", other, a)
		}
	}
	if sum([]any{"ab", "c"}) == sum([]any{"a", "bc"}) || sum(a) == sum(a, a, a) {
		t.Error("what differs has one sum")
	}
	var d digest
	if err := d.add([]any{1.5}); err == nil {
		t.Error("a kind that nobody stores was taken")
	}
}
