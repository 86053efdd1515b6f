// Package bundles takes support bundles in from endpoints, part by part, and keeps
// them: a file for each, and its row in the store.
//
// Rules that hold here:
//   - what is called held is on disk, without a gap, and is never changed: a file's
//     bytes are synced before its row counts them, and beyond what the row counts a
//     file is cut before it is used;
//   - a bundle is complete only once the hash of all of its bytes was the one announced;
//     else all of it is dropped, and said to be;
//   - of each agent one request at a time changes anything, and no agent waits for another;
//   - what one agent sends never costs another one its bundles, unless that one has at least as much.
package bundles

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"gururmm/internal/atomicfile"
	"gururmm/internal/diskfree"
	"gururmm/internal/fault"
	"gururmm/operator"
	"gururmm/server/store"
	"gururmm/wire"
)

// Errors to branch on; store.ErrNotFound comes through.
var (
	// ErrRefused: what was sent can't be a part of a bundle; the text says why.
	ErrRefused = errors.New("bundle refused")
	// ErrTooLarge: the bundle or the part is.
	ErrTooLarge = errors.New("too large")
	// ErrTaken: the id is that of another bundle.
	ErrTaken = errors.New("that id is another bundle's: send this one with an id of its own")
	// ErrWrongHash: all bytes came, and are not those announced. None is held any more.
	ErrWrongHash = errors.New("the bundle's bytes have another SHA-256 than was announced; all of it was dropped: send it again from its first byte")
	// ErrFull: there is no room for it.
	ErrFull = errors.New("no room for the bundle")
	// ErrPartial: it is not all there yet.
	ErrPartial = errors.New("the bundle is not all there yet")
)

// GapError refuses a part that begins behind what is held.
type GapError struct{ Held int64 }

func (e *GapError) Error() string {
	return fmt.Sprintf("%d bytes are held: go on there", e.Held)
}

const (
	// KeepBundles and KeepBytes are how many complete bundles of each agent stay, the
	// newest ones, and how many bytes they may have together.
	KeepBundles = 20
	KeepBytes   = 256 << 20
	// MaxBytes bounds the bytes of all bundles, those under way counted whole.
	MaxBytes = 4 << 30
	// keepPartial is how long a bundle may take to arrive: 16 MiB at 200 bytes a second.
	keepPartial = 24 * time.Hour
	// sweepEvery is how often older ones are looked for.
	sweepEvery = time.Hour
	// spare is what a bundle leaves free on the disk: the database needs it more.
	spare = 256 << 20
)

// maxID bounds an id in bytes.
const maxID = 64

// faultWritten is the label of a fault seam: a part is on disk, and not counted yet.
const faultWritten = "bundles.written"

// Partial is how the name of a file ends that is not whole yet.
const Partial = ".part"

// Offer describes a bundle that an agent sends. It is the same with each part.
type Offer struct {
	ID     string
	Agent  string
	SHA256 string // hex, of the whole
	Total  int64  // bytes
	Reason string
	MadeAt *time.Time
}

func (o Offer) check() error {
	switch {
	case !usable(o.ID):
		return fmt.Errorf("%w: id: want 1 to %d of a-z, 0-9 and -, the first not -", ErrRefused, maxID)
	case !hashed(o.SHA256):
		return fmt.Errorf("%w: %s: want a SHA-256, 64 lower-case hex digits", ErrRefused, wire.HeaderBundle)
	case o.Total < 1:
		return fmt.Errorf("%w: an empty bundle", ErrRefused)
	case o.Total > wire.MaxBundle:
		return fmt.Errorf("%w: a bundle may have %d bytes", ErrTooLarge, wire.MaxBundle)
	}
	return nil
}

// usable reports whether id may name a file here.
func usable(id string) bool {
	return id != "" && len(id) <= maxID && id[0] != '-' && strings.Trim(id, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

func hashed(s string) bool {
	raw, err := hex.DecodeString(s)
	return err == nil && len(raw) == sha256.Size && s == strings.ToLower(s)
}

// Options of a Shelf. Dir, Store and Log are needed.
type Options struct {
	Dir   string // made if need be
	Store store.Bundles
	Log   *slog.Logger
	Room  int64                            // instead of MaxBytes, for tests
	Free  func(dir string) (uint64, error) // bytes free on the disk of dir, for tests
	// Leads tells whether this is the node that sweeps a directory that several share; nil:
	// it is the only one.
	Leads func() bool
}

// Shelf holds the bundles. All methods are safe for concurrent use.
type Shelf struct {
	o     Options
	slots slots // one for each agent that changes something
}

// New opens the shelf, and clears files that no row tells of.
func New(ctx context.Context, o Options) (*Shelf, error) {
	if o.Room == 0 {
		o.Room = MaxBytes
	}
	if o.Free == nil {
		o.Free = diskfree.Free
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, err
	}
	s := &Shelf{o: o, slots: slots{by: map[string]*slot{}}}
	return s, s.clear(ctx)
}

// clear removes files that have no row: whoever sent them was not told that they are held.
func (s *Shelf) clear(ctx context.Context) error {
	all, err := s.o.Store.Bundles(ctx, "")
	if err != nil {
		return err
	}
	owner := map[string]string{}
	for _, b := range all {
		owner[b.ID] = b.Agent
	}
	files, err := filepath.Glob(filepath.Join(s.o.Dir, "*", "*"))
	if err != nil {
		return err
	}
	for _, f := range files {
		id := strings.TrimSuffix(filepath.Base(f), Partial)
		if !usable(id) || owner[id] == filepath.Base(filepath.Dir(f)) {
			continue // what is not ours is left alone
		}
		if info, err := os.Stat(f); err != nil || s.o.Leads != nil && time.Since(info.ModTime()) < keepPartial {
			continue // another node may be at it
		}
		s.o.Log.Warn("removing what an interrupted change has left", "file", f)
		if err := os.Remove(f); err != nil {
			return err
		}
	}
	return nil
}

// Run drops what has not become complete in time, until ctx ends.
func (s *Shelf) Run(ctx context.Context) error {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		if s.o.Leads == nil || s.o.Leads() {
			if err := s.sweep(ctx, time.Now().Add(-keepPartial)); err != nil && ctx.Err() == nil {
				s.o.Log.Error("bundles that never became complete not dropped", "error", err)
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *Shelf) sweep(ctx context.Context, began time.Time) error {
	all, err := s.o.Store.Bundles(ctx, "")
	var errs []error
	for _, b := range all {
		if b.Complete || b.BeganAt.After(began) {
			continue
		}
		release, ok := s.slots.try(b.Agent)
		if !ok {
			continue // next time
		}
		if now, err := s.o.Store.Bundle(ctx, b.ID); err == nil && !now.Complete {
			errs = append(errs, s.drop(ctx, b, "not complete in time"))
		}
		release()
	}
	return errors.Join(append(errs, err)...)
}

func (s *Shelf) path(b operator.Bundle) string { return filepath.Join(s.o.Dir, b.Agent, b.ID) }

// Held tells how much of a bundle is held; of one that is not known, nothing is.
func (s *Shelf) Held(ctx context.Context, o Offer) (wire.BundleState, error) {
	if err := o.check(); err != nil {
		return wire.BundleState{}, err
	}
	release, err := s.slots.take(ctx, o.Agent)
	if err != nil {
		return wire.BundleState{}, err
	}
	defer release()
	b, err := s.known(ctx, o)
	if errors.Is(err, store.ErrNotFound) {
		return wire.BundleState{ID: o.ID, Total: o.Total}, nil
	}
	if err != nil {
		return wire.BundleState{}, err
	}
	return s.finish(ctx, b)
}

// Take takes the part that begins at byte from. Bytes that are held already stay as
// they are. A part that begins behind them is a [*GapError].
func (s *Shelf) Take(ctx context.Context, o Offer, from int64, part []byte) (wire.BundleState, error) {
	refused := func(err error) (wire.BundleState, error) { return wire.BundleState{}, err }
	if err := o.check(); err != nil {
		return refused(err)
	}
	end := from + int64(len(part))
	switch {
	case len(part) > wire.BundlePart:
		return refused(fmt.Errorf("%w: a part may have %d bytes", ErrTooLarge, wire.BundlePart))
	case from < 0, len(part) == 0, from > wire.MaxBundle, end > o.Total:
		return refused(fmt.Errorf("%w: the part lies outside of the bundle", ErrRefused))
	}
	release, err := s.slots.take(ctx, o.Agent)
	if err != nil {
		return refused(err)
	}
	defer release()
	b, err := s.known(ctx, o)
	if errors.Is(err, store.ErrNotFound) {
		if from > 0 {
			return refused(&GapError{0})
		}
		b, err = s.begin(ctx, o)
	}
	if err != nil {
		return refused(err)
	}
	if from > b.Held {
		return refused(&GapError{b.Held})
	}
	if end > b.Held {
		if b, err = s.add(ctx, b, part[b.Held-from:]); err != nil {
			return refused(err)
		}
	}
	return s.finish(ctx, b)
}

// known gives the bundle offered, as it is on disk. Call with the agent's slot.
func (s *Shelf) known(ctx context.Context, o Offer) (operator.Bundle, error) {
	b, err := s.o.Store.Bundle(ctx, o.ID)
	if err != nil {
		return b, err
	}
	if b.Agent != o.Agent || b.SHA256 != o.SHA256 || b.Size != o.Total {
		return b, ErrTaken
	}
	if b.Complete {
		if size, err := length(s.path(b)); err != nil || size == b.Size {
			return b, err
		}
		return b, errors.Join(store.ErrNotFound, s.drop(ctx, b, "its file is missing or cut"))
	}
	size, err := length(s.path(b) + Partial)
	if err != nil {
		return b, err
	}
	if size == 0 && b.Held > 0 { // ended between the rename and its record?
		if size, err = length(s.path(b)); err != nil {
			return b, err
		}
		if size > 0 {
			if err := atomicfile.Rename(s.path(b), s.path(b)+Partial); err != nil {
				return b, err
			}
		}
	}
	if size > b.Held { // not counted: nobody was told of it
		return b, os.Truncate(s.path(b)+Partial, b.Held)
	}
	b.Held = size
	return b, nil
}

// length of a file in bytes; of one that is not there, 0.
func length(path string) (int64, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// begin records a bundle of which nothing is held. An older one of the agent that
// is not complete makes way. Call with the agent's slot.
func (s *Shelf) begin(ctx context.Context, o Offer) (operator.Bundle, error) {
	b := operator.Bundle{
		ID: o.ID, Agent: o.Agent, SHA256: o.SHA256, Size: o.Total, Reason: o.Reason, MadeAt: o.MadeAt,
		BeganAt: time.Now().UTC().Truncate(time.Microsecond),
	}
	free, err := s.o.Free(s.o.Dir)
	if err != nil {
		return b, err
	}
	if free < uint64(o.Total)+spare {
		return b, fmt.Errorf("%w: the disk of the server's state directory has %d bytes free, and %d are to stay free; free space there, then repeat", ErrFull, free, spare)
	}
	older, err := s.o.Store.Bundles(ctx, o.Agent)
	if err != nil {
		return b, err
	}
	for _, old := range older {
		if !old.Complete {
			if err := s.drop(ctx, old, "a newer one has come"); err != nil {
				return b, err
			}
		}
	}
	for try := 1; ; try++ {
		err := s.o.Store.CreateBundle(ctx, b, s.o.Room)
		if errors.Is(err, store.ErrConflict) { // of another agent, at this moment
			return b, ErrTaken
		}
		if !errors.Is(err, store.ErrNoRoom) {
			return b, err
		}
		if err := s.evict(ctx, b); err != nil {
			return b, err
		}
		if try == 3 { // others fill what this one frees
			return b, fmt.Errorf("%w: other bundles are coming in; repeat", ErrFull)
		}
	}
}

// evict makes room for b by the oldest bundles of who has the most bytes.
func (s *Shelf) evict(ctx context.Context, b operator.Bundle) error {
	all, err := s.o.Store.Bundles(ctx, "")
	if err != nil {
		return err
	}
	used, each, oldest := b.Size, map[string]int64{}, map[string][]operator.Bundle{}
	for _, o := range all { // the newest first
		used += o.Size
		if o.Complete {
			each[o.Agent] += o.Size
			oldest[o.Agent] = append(oldest[o.Agent], o)
		}
	}
	for used > s.o.Room {
		var most string
		for agent, n := range each {
			if most == "" || n > each[most] || n == each[most] && agent < most {
				most = agent
			}
		}
		if most == "" {
			return fmt.Errorf("%w: bundles may take %d bytes at this server; remove some: gururmm bundles AGENT --delete ID", ErrFull, s.o.Room)
		}
		release, ok := func() {}, true
		if most != b.Agent { // that slot is ours
			release, ok = s.slots.try(most)
		}
		if !ok {
			delete(each, most)
			continue
		}
		theirs := oldest[most]
		last := theirs[len(theirs)-1]
		err := s.drop(ctx, last, "room was needed")
		release()
		if err != nil {
			return err
		}
		used -= last.Size
		if each[most] -= last.Size; len(theirs) == 1 {
			delete(each, most)
		}
		oldest[most] = theirs[:len(theirs)-1]
	}
	return nil
}

// add puts more behind what is held of b: on disk first, then recorded.
func (s *Shelf) add(ctx context.Context, b operator.Bundle, more []byte) (operator.Bundle, error) {
	dir := filepath.Dir(s.path(b))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return b, room(err)
	}
	f, err := os.OpenFile(s.path(b)+Partial, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return b, room(err)
	}
	if _, err = f.WriteAt(more, b.Held); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return b, room(err)
	}
	if b.Held == 0 { // the names are new
		if err := errors.Join(atomicfile.SyncDir(dir), atomicfile.SyncDir(s.o.Dir)); err != nil {
			return b, err
		}
	}
	fault.Stall(faultWritten)
	b.Held += int64(len(more))
	return b, s.o.Store.SaveBundle(ctx, b)
}

// room names a full disk.
func room(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w: the disk of the server's state directory is full; free space there, then repeat (%w)", ErrFull, err)
	}
	return err
}

// finish completes b if all of it is held, and tells how it stands.
func (s *Shelf) finish(ctx context.Context, b operator.Bundle) (wire.BundleState, error) {
	if b.Complete || b.Held < b.Size {
		return wire.BundleState{ID: b.ID, Held: b.Held, Total: b.Size, Complete: b.Complete}, nil
	}
	got, err := hashOf(s.path(b)+Partial, b.Size)
	if err != nil {
		return wire.BundleState{}, err
	}
	if got != b.SHA256 {
		return wire.BundleState{}, errors.Join(ErrWrongHash, s.drop(ctx, b, "its bytes are not those announced"))
	}
	if err := atomicfile.Rename(s.path(b)+Partial, s.path(b)); err != nil {
		return wire.BundleState{}, err
	}
	if err := atomicfile.SyncDir(filepath.Dir(s.path(b))); err != nil {
		return wire.BundleState{}, err
	}
	now := time.Now().UTC().Truncate(time.Microsecond)
	b.Complete, b.CompletedAt = true, &now
	if err := s.o.Store.SaveBundle(ctx, b); err != nil {
		return wire.BundleState{}, err
	}
	s.o.Log.Info("bundle complete", "agent", b.Agent, "bundle", b.ID, "bytes", b.Size)
	if err := s.keep(ctx, b.Agent); err != nil { // it is complete all the same
		s.o.Log.Error("older bundles not dropped", "agent", b.Agent, "error", err)
	}
	return wire.BundleState{ID: b.ID, Held: b.Size, Total: b.Size, Complete: true}, nil
}

// hashOf gives the SHA-256 of a file that should have size bytes.
func hashOf(path string, size int64) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, io.LimitReader(f, size+1)); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// keep drops the oldest complete ones of an agent beyond its bounds.
func (s *Shelf) keep(ctx context.Context, agent string) error {
	all, err := s.o.Store.Bundles(ctx, agent)
	if err != nil {
		return err
	}
	var (
		n, bytes int64
		errs     []error
	)
	for _, b := range all {
		if !b.Complete {
			continue
		}
		n, bytes = n+1, bytes+b.Size
		if n > KeepBundles || bytes > KeepBytes {
			errs = append(errs, s.drop(ctx, b, "newer ones have come"))
			bytes = math.MaxInt64 / 2 // nothing older stays
		}
	}
	return errors.Join(errs...)
}

// drop forgets a bundle. Call with its agent's slot.
func (s *Shelf) drop(ctx context.Context, b operator.Bundle, why string) error {
	if err := s.o.Store.DeleteBundle(ctx, b.ID); err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	s.o.Log.Info("bundle dropped", "agent", b.Agent, "bundle", b.ID, "held", b.Held, "size", b.Size, "reason", why)
	var errs []error
	for _, path := range []string{s.path(b), s.path(b) + Partial} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// List gives an agent's bundles, the newest first.
func (s *Shelf) List(ctx context.Context, agent string) ([]operator.Bundle, error) {
	return s.o.Store.Bundles(ctx, agent)
}

// Find gives the id that is ref, else those that begin so, if ref has
// [store.MinPrefix] bytes, of an agent's bundles.
func (s *Shelf) Find(ctx context.Context, agent, ref string) (ids []string, err error) {
	all, err := s.o.Store.Bundles(ctx, agent)
	for _, b := range all {
		if b.ID == ref {
			return []string{ref}, nil
		}
		if len(ref) >= store.MinPrefix && strings.HasPrefix(b.ID, ref) && len(ids) < store.MaxFound {
			ids = append(ids, b.ID)
		}
	}
	return ids, err
}

// Open opens a complete bundle of an agent for reading anywhere in it.
func (s *Shelf) Open(ctx context.Context, agent, id string) (*os.File, operator.Bundle, error) {
	b, err := s.o.Store.Bundle(ctx, id)
	switch {
	case err != nil:
		return nil, b, err
	case b.Agent != agent:
		return nil, b, store.ErrNotFound
	case !b.Complete:
		return nil, b, fmt.Errorf("%w: %d of %d bytes have come", ErrPartial, b.Held, b.Size)
	}
	f, err := atomicfile.Open(s.path(b))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, b, fmt.Errorf("the file of bundle %s is gone from %s: remove the bundle and have another one made", b.ID, s.o.Dir)
	}
	return f, b, err
}

// Remove forgets a bundle of an agent, complete or not.
func (s *Shelf) Remove(ctx context.Context, agent, id string) error {
	release, err := s.slots.take(ctx, agent)
	if err != nil {
		return err
	}
	defer release()
	b, err := s.o.Store.Bundle(ctx, id)
	if err == nil && b.Agent != agent {
		err = store.ErrNotFound
	}
	if err != nil {
		return err
	}
	return s.drop(ctx, b, "an operator removed it")
}
