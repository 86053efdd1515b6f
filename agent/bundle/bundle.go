// Package bundle gathers what somebody far away needs to understand an endpoint,
// in one file: what guardian and worker say of themselves, their stacks and a trace,
// reports, logs, configuration, journal, machine.
//
// Rules that hold here:
//   - no secret goes in: each source is decoded into a type that has only what may
//     be told, and written from that; all text passes a filter of known shapes besides;
//   - what is secret here is read before any text is; where it can't be, the texts
//     that could hold it stay out;
//   - nothing of what a command ran or printed goes in, only that it did;
//   - a source that is missing, frozen or damaged costs its own member, and the
//     manifest says why; a source touches nothing but what it gives back, so that one
//     which comes too late changes nothing;
//   - every member and the whole are bounded, and what was cut is said;
//   - reading changes nothing: no lock, no repair, no file set aside.
package bundle

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"gururmm/agent/local"
	"gururmm/wire"
)

// Format is the version of a bundle's form: names, manifest, encodings.
const Format = 2

// Bounds. A member's is of its bytes as they are, the whole's as compressed.
const (
	// MaxBytes bounds a bundle: minutes, not hours, on a link of 64 kB/s.
	MaxBytes = 16 << 20
	// maxMember bounds any member that has no tighter bound of its own.
	maxMember = 4 << 20
	// sourceWait bounds one source: a disk or a pipe that hangs costs its own member.
	sourceWait = 10 * time.Second
	// doctorWait bounds the doctor's visit; it dials, on a path that is perhaps broken.
	doctorWait = 60 * time.Second
	// TraceLength is how long the runtime of both processes is traced.
	TraceLength = time.Second
)

// The first two members. SumsName has the hashes of all others, that of the manifest
// too, as sha256sum(1) checks them.
const (
	ManifestName = "manifest.json"
	SumsName     = "SHA256SUMS"
)

// Guardian is the running one, as its socket answers; [local.Client] is the real one.
type Guardian interface {
	Status(ctx context.Context) (local.Status, error)
	Frames(ctx context.Context) (local.Frames, error)
	Stacks(ctx context.Context) (local.Stacks, error)
	Traces(ctx context.Context, d time.Duration) (local.Traces, error)
}

// Options of [Make].
type Options struct {
	ID     string // of the bundle; "": a fresh one
	Reason string // for people and the manifest: why it was made
	// StateDir is the endpoint's state directory; what is not in it is missing.
	StateDir string
	Version  string // of the program that makes the bundle
	Guardian Guardian
	// Doctor runs the doctor and gives its JSON report; nil: there is none.
	Doctor func(ctx context.Context) ([]byte, error)
	// Environ is the environment, of which only proxies are told, without their
	// passwords; nil: os.Environ.
	Environ []string
	// Limit of the packed bundle in bytes; 0: [MaxBytes].
	Limit int
	// Read gives the whole of a settings' file of at most limit bytes, for tests;
	// nil: from the disk.
	Read func(path string, limit int64) ([]byte, error)
}

// Manifest says what is in a bundle, and what is not.
type Manifest struct {
	Format   int       `json:"format"`
	Bundle   string    `json:"bundle"` // id
	Created  time.Time `json:"created"`
	Reason   string    `json:"reason"`
	Agent    string    `json:"agent,omitempty"`
	Server   string    `json:"server,omitempty"`
	Instance string    `json:"instance,omitempty"` // of the guardian that answered
	Version  string    `json:"version"`            // of the program that made the bundle
	// Verdict as the guardian gave it; empty: it did not answer.
	Verdict string `json:"verdict,omitempty"`
	// Guardian says how it was: "answered", or why not.
	Guardian string `json:"guardian"`
	// Secrets says whether those of the endpoint were known when its texts were read:
	// "known", or what is left out because they were not.
	Secrets string   `json:"secrets"`
	Members []Member `json:"members"` // in order, without the manifest
}

// Member is one file of a bundle, or one that should be there and is not.
type Member struct {
	Name   string `json:"name"`
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256,omitempty"` // hex; absent: it is missing
	From   string `json:"from"`
	// Missing says why it is not there.
	Missing string `json:"missing,omitempty"`
	// Cut says what of it was left out.
	Cut string `json:"cut,omitempty"`
	// Redacted counts what the filter took out.
	Redacted int `json:"redacted,omitempty"`
	// TookMS is how long its source took.
	TookMS int64 `json:"took_ms"`
}

// part is a member with its bytes; data nil: missing.
type part struct {
	Member
	data []byte
}

// maker makes one bundle. All of it belongs to the goroutine of [Make].
type maker struct {
	o       Options
	filter  *filter
	unknown string // why texts stay out; "": they don't
	parts   []part
	status  *local.Status // nil: it did not answer
}

// Make gathers a bundle and gives it packed (tar, gzip), at most [MaxBytes].
// It always succeeds in part: what is missing is said in the manifest. The error
// is ctx's, or that even the manifest can't be packed.
func Make(ctx context.Context, o Options) ([]byte, Manifest, error) {
	o.ID, o.Limit = cmp.Or(o.ID, wire.NewID()), cmp.Or(o.Limit, MaxBytes)
	if o.Environ == nil {
		o.Environ = os.Environ()
	}
	if o.Read == nil {
		o.Read = readFile
	}
	if o.Guardian == nil {
		o.Guardian = nobody{}
	}
	own := readSettings(ctx, o)
	m := &maker{o: o, filter: newFilter(own.secrets, len(own.unknown) > 0)}
	man := Manifest{Format: Format, Bundle: o.ID, Created: time.Now().UTC(), Reason: m.filter.word(o.Reason), Version: o.Version, Secrets: "known"}
	if len(own.unknown) > 0 {
		m.unknown = m.filter.word("what is secret on this endpoint is not known (" + strings.Join(own.unknown, "; ") + ")")
		man.Secrets = m.unknown + ": logs and stacks are left out, and all that is as long as a key"
	}
	doctor := m.startDoctor(ctx)
	man.Guardian = m.guardian(ctx)
	m.history(ctx)
	m.beacons(ctx)
	m.logs(ctx)
	m.keptStacks(ctx)
	m.add(m.doctor(<-doctor))
	m.add(m.json("config.json", "agent.yaml, identity.json, policy.json, environment", own.facts, own.took))
	m.journal(ctx)
	m.machine(ctx)
	m.files(ctx)
	if err := ctx.Err(); err != nil {
		return nil, man, err
	}
	if m.status != nil {
		man.Agent, man.Server = m.status.Agent, m.status.Server
		man.Instance, man.Verdict = m.status.Guardian.Instance, string(m.status.Verdict.Code)
	} else if id := own.facts.Identity; id != nil {
		man.Agent, man.Server = id.Agent, id.Server
	}
	packed, err := m.pack(&man)
	return packed, man, err
}

// add takes parts in; their text has passed the filter.
func (m *maker) add(parts ...part) { m.parts = append(m.parts, parts...) }

// errLate: a source did not come in time. What is behind it may hang alike.
var errLate = errors.New("it did not come")

// within runs one source, which may hang: then it is left behind, as this process
// ends soon, and its member is missing. So take touches nothing but what it gives back.
func within[T any](ctx context.Context, limit time.Duration, take func(ctx context.Context) (T, error)) (T, time.Duration, error) {
	type taken struct {
		it  T
		err error
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	done := make(chan taken, 1)
	go func() {
		it, err := take(ctx)
		done <- taken{it, err}
	}()
	grace := time.NewTimer(limit + time.Second) // who obeys ctx says better why
	defer grace.Stop()
	select {
	case t := <-done:
		return t.it, time.Since(began), t.err
	case <-grace.C:
		var none T
		return none, time.Since(began), fmt.Errorf("%w within %v", errLate, limit)
	}
}

// missing makes a part that is not there.
func (m *maker) missing(name, from string, why error, took time.Duration) part {
	return part{Member: Member{Name: name, From: from, Missing: m.filter.word(why.Error()), TookMS: took.Milliseconds()}}
}

// text makes a part of text in free form, which could hold anything.
func (m *maker) text(name, from string, data []byte, took time.Duration) part {
	if m.unknown != "" {
		return part{Member: Member{Name: name, From: from, Missing: "left out: " + m.unknown, TookMS: took.Milliseconds()}}
	}
	data, n := m.filter.text(data)
	return part{data: data, Member: Member{Name: name, From: from, Redacted: n, TookMS: took.Milliseconds()}}
}

// json makes a part of v, whose type is the list of what may be told.
func (m *maker) json(name, from string, v any, took time.Duration) part {
	data, n, err := m.filter.json(v)
	if err == nil && len(data) > maxMember {
		err = fmt.Errorf("%d bytes, which is more than a member may have (%d)", len(data), maxMember)
	}
	if err != nil {
		return m.missing(name, from, err, took)
	}
	return part{data: data, Member: Member{Name: name, From: from, Redacted: n, TookMS: took.Milliseconds()}}
}

// jsonFrom makes a part of what take gives.
func jsonFrom[T any](ctx context.Context, m *maker, name, from string, limit time.Duration, take func(ctx context.Context) (T, error)) (part, T, error) {
	v, took, err := within(ctx, limit, take)
	if err != nil {
		return m.missing(name, from, err, took), v, err
	}
	return m.json(name, from, v, took), v, nil
}

// seal fills in size and hash of every part, in order, into man.
func (m *maker) seal(man *Manifest) error {
	man.Members = nil
	for i := range m.parts {
		p := &m.parts[i]
		p.Bytes, p.SHA256 = int64(len(p.data)), ""
		if p.Missing == "" {
			sum := sha256.Sum256(p.data)
			p.SHA256 = hex.EncodeToString(sum[:])
		}
		man.Members = append(man.Members, p.Member)
	}
	return nil
}

// lighten takes the largest member out, for a bundle that became too large.
func (m *maker) lighten() bool {
	if len(m.parts) == 0 {
		return false
	}
	i := 0
	for j := range m.parts {
		if len(m.parts[j].data) > len(m.parts[i].data) {
			i = j
		}
	}
	p := &m.parts[i]
	if len(p.data) == 0 {
		return false
	}
	p.Missing = fmt.Sprintf("left out: with its %d bytes the bundle would exceed %d", len(p.data), m.o.Limit)
	p.data = nil
	return true
}

// pack packs all parts behind their manifest.
func (m *maker) pack(man *Manifest) ([]byte, error) {
	slices.SortStableFunc(m.parts, func(a, b part) int { return cmp.Compare(rank(a.Name), rank(b.Name)) })
	for {
		m.seal(man)
		raw, err := json.MarshalIndent(man, "", "  ")
		if err != nil {
			return nil, fmt.Errorf("manifest: %w", err)
		}
		raw = append(raw, '\n')
		first := []part{{Member: Member{Name: ManifestName}, data: raw}, {Member: Member{Name: SumsName}, data: man.sums(raw)}}
		packed, err := packAll(append(first, m.parts...), man.Created)
		if err != nil {
			return nil, err
		}
		if len(packed) <= m.o.Limit {
			return packed, nil
		}
		if !m.lighten() {
			return nil, errors.New("bundle: nothing more can be left out, and it is still too large")
		}
	}
}
