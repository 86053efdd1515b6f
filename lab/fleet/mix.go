package fleet

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
)

// Kind is how an agent behaves.
type Kind string

// The kinds. The first three answer all that they are ordered.
const (
	Idle     Kind = "idle"     // does what the policy asks, and no more
	Chatty   Kind = "chatty"   // also metrics and echoes, each second
	Flapping Kind = "flapping" // leaves each few seconds, half the time without a word
	Deaf     Kind = "deaf"     // pings and heartbeats go on; texts are read and not handled
	HalfOpen Kind = "halfopen" // its socket stays open; it reads and writes nothing
	Cloned   Kind = "cloned"   // two machines hold its identity, both alive
)

// Kinds lists all, as they are reported.
var Kinds = []Kind{Idle, Chatty, Flapping, Deaf, HalfOpen, Cloned}

// Well tells whether each command of such an agent must be completed.
func (k Kind) Well() bool { return k == Idle || k == Chatty || k == Flapping }

// Mix weighs the kinds.
type Mix map[Kind]int

// DefaultMix is mostly well, with some of each trouble.
const DefaultMix = "idle=90,chatty=5,deaf=2,halfopen=1,flapping=1,cloned=1"

// ParseMix reads KIND=WEIGHT,…; kinds that are not named have none.
func ParseMix(s string) (Mix, error) {
	m := Mix{}
	total := 0
	for part := range strings.SplitSeq(s, ",") {
		name, number, ok := strings.Cut(strings.TrimSpace(part), "=")
		weight, err := strconv.Atoi(number)
		switch {
		case !ok || err != nil || weight < 0 || weight > MaxAgents:
			return nil, fmt.Errorf("%q: want KIND=WEIGHT, a weight from 0 to %d", part, MaxAgents)
		case !slices.Contains(Kinds, Kind(name)):
			return nil, fmt.Errorf("%q is no kind: there are %v", name, Kinds)
		}
		if _, twice := m[Kind(name)]; twice {
			return nil, fmt.Errorf("%s is named twice", name)
		}
		m[Kind(name)] = weight
		total += weight
	}
	if total == 0 {
		return nil, fmt.Errorf("%q gives no kind a weight", s)
	}
	return m, nil
}

// deal gives each of n agents its kind: in proportion, each kind that has a weight
// at least once while there are enough, in an order drawn from seed.
func (m Mix) deal(n int, seed uint64) []Kind {
	total := 0
	for _, w := range m {
		total += w
	}
	var all []Kind
	most := Idle // who gets what rounding leaves
	for _, k := range Kinds {
		if m[k] > m[most] {
			most = k
		}
	}
	for _, k := range slices.Backward(Kinds) { // the rare troubles first
		if m[k] == 0 || k == most {
			continue
		}
		for range min(n-len(all), max(1, n*m[k]/total)) {
			all = append(all, k)
		}
	}
	for len(all) < n {
		all = append(all, most)
	}
	rng := rand.New(rand.NewPCG(seed, 0))
	rng.Shuffle(n, func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}
