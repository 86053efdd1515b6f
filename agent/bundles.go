package agent

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"gururmm/internal/atomicfile"
	"gururmm/oob"
	"gururmm/wire"
)

// bundlesDir is where support bundles wait in the state directory, with a note each.
const bundlesDir = "bundles"

// Names in it: a bundle's id with one of these.
const (
	bundleExt  = ".tar.gz"
	noteExt    = ".json"
	partialExt = ".part" // being made
)

// What is kept of bundles, those that have arrived too.
const (
	keepBundles     = 5
	keepBundleBytes = 64 << 20
)

const (
	// maxNote bounds a bundle's note in bytes, before it is parsed.
	maxNote = 16 << 10
	// maxReason bounds a reason in bytes: it becomes an argument.
	maxReason = 1 << 10
	// maxBundleWords bounds the manifest that a bundle's process prints, in bytes.
	maxBundleWords = 1 << 20
	// uploadTurn bounds one try to hand over a bundle; what came through is not lost.
	uploadTurn = 2 * time.Minute
	// uploadAgainMin and uploadAgainMax bound the wait before the next, which doubles.
	uploadAgainMin, uploadAgainMax = 15 * time.Second, 30 * time.Minute
	// errandWithin is how long send_bundle waits for the upload: shorter than an
	// errand's limit, so that it can say how far it is.
	errandWithin = 12 * time.Minute
)

// bundleNote is what is known of a bundle on disk.
type bundleNote struct {
	ID     string    `json:"id"`
	SHA256 string    `json:"sha256"` // hex
	Bytes  int64     `json:"bytes"`
	Reason string    `json:"reason"`
	Made   time.Time `json:"made"`
	// Complete: the server has it. Refused: it never will, and why.
	Complete bool   `json:"complete,omitempty"`
	Refused  string `json:"refused,omitempty"`
}

func (n bundleNote) waits() bool { return !n.Complete && n.Refused == "" }

// putter hands bundles over; [oob.Client] is the real one.
type putter interface {
	PutBundle(ctx context.Context, b oob.BundleInfo, r io.ReaderAt) error
}

// bundles makes support bundles in processes of their own, and hands them to the
// server. What is in the directory is all its memory: a bundle that waits is handed
// over by the next guardian too.
type bundles struct {
	dir  string
	put  putter
	log  *slog.Logger
	make func(ctx context.Context, file, id, reason string, brief bool) error // starts the process

	wake   chan struct{}
	making chan struct{} // holds one who makes one, or tidies

	mu      sync.Mutex // never held across I/O
	waiting map[string]chan error
	last    error // why the upload did not come on
}

// newBundles prepares for client, which must not be nil.
func (s *Setup) newBundles(client putter, log *slog.Logger) *bundles {
	return &bundles{
		dir: s.Dir.Path(bundlesDir), put: client, log: log, wake: make(chan struct{}, 1), making: make(chan struct{}, 1), waiting: map[string]chan error{},
		make: func(ctx context.Context, file, id, reason string, brief bool) error {
			args := []string{"bundle", "--json", "--output", file, "--id", id, "--reason", reason, "--status-socket", s.Socket}
			if brief {
				args = append(args, "--no-doctor")
			}
			_, err := s.process(ctx, true, maxBundleWords, args...)
			return err
		},
	}
}

// Make makes a bundle for the guardian itself, and leaves it to Upload. It has no
// doctor's visit: that dials, on a path that has just been found ill.
func (b *bundles) Make(ctx context.Context, reason string) (string, error) {
	n, _, err := b.add(ctx, reason, true)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("bundle %s, %d bytes", n.ID, n.Bytes), nil
}

// errand is send_bundle: done once the server has it.
func (b *bundles) errand(ctx context.Context, d wire.Directive) (detail string, report json.RawMessage, err error) {
	ctx, cancel := context.WithTimeout(ctx, errandWithin)
	defer cancel()
	n, outcome, err := b.add(ctx, cmp.Or(d.Reason, "ordered by the server"), false)
	if err != nil {
		return "", nil, err
	}
	report, err = json.Marshal(struct {
		Bundle string `json:"bundle"`
		Bytes  int64  `json:"bytes"`
	}{n.ID, n.Bytes})
	if err != nil {
		return "", nil, err
	}
	select {
	case err := <-outcome:
		return fmt.Sprintf("the server has bundle %s, %d bytes", n.ID, n.Bytes), report, err
	case <-ctx.Done():
	}
	b.mu.Lock()
	last := b.last
	delete(b.waiting, n.ID)
	b.mu.Unlock()
	err = fmt.Errorf("bundle %s is made, but the server does not have all of it yet; its upload goes on by itself", n.ID)
	if last != nil {
		err = fmt.Errorf("%w: %w", err, last)
	}
	return "", report, err
}

// turn waits until nothing is being made, or ctx ends; release lets the next one.
func (b *bundles) turn(ctx context.Context) (release func(), err error) {
	select {
	case b.making <- struct{}{}:
		return func() { <-b.making }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("another bundle is being made: %w", context.Cause(ctx))
	}
}

// add makes a bundle. Outcome tells what came of its upload: nil, or why it never will be.
func (b *bundles) add(ctx context.Context, reason string, brief bool) (n bundleNote, outcome <-chan error, err error) {
	release, err := b.turn(ctx)
	if err != nil {
		return n, nil, err
	}
	defer release()
	if err := os.MkdirAll(b.dir, 0o700); err != nil {
		return n, nil, err
	}
	if err := b.prune(keepBundles-1, keepBundleBytes-wire.MaxBundle); err != nil {
		b.log.Warn("old bundles can't be removed", "error", err)
	}
	reason = strings.ToValidUTF8(reason[:min(len(reason), maxReason)], "?")
	n = bundleNote{ID: wire.NewID(), Reason: reason, Made: time.Now().UTC()}
	partial := b.path(n.ID, partialExt)
	defer os.Remove(partial)
	if err := b.make(ctx, partial, n.ID, reason, brief); err != nil {
		return n, nil, err
	}
	if n.SHA256, n.Bytes, err = hashFile(partial); err != nil {
		return n, nil, fmt.Errorf("read the bundle: %w", err)
	}
	// The note first: a bundle without one would be nobody's.
	if err := b.write(n); err != nil {
		return n, nil, err
	}
	done := make(chan error, 1)
	b.mu.Lock()
	b.waiting[n.ID] = done
	b.mu.Unlock()
	if err := atomicfile.Rename(partial, b.path(n.ID, bundleExt)); err != nil {
		b.mu.Lock()
		delete(b.waiting, n.ID)
		b.mu.Unlock()
		return n, nil, errors.Join(err, os.Remove(b.path(n.ID, noteExt)))
	}
	select {
	case b.wake <- struct{}{}:
	default:
	}
	return n, done, nil
}

// Upload hands over what waits until ctx ends.
func (b *bundles) Upload(ctx context.Context) {
	if b.tidy(ctx) != nil {
		return
	}
	wait := uploadAgainMin
	for {
		left := false
		for _, n := range b.notes() {
			if !n.waits() {
				continue
			}
			if err := b.hand(ctx, n); err != nil {
				b.log.Warn("bundle not handed over yet", "bundle", n.ID, "error", err)
				b.mu.Lock()
				b.last, left = err, true
				b.mu.Unlock()
				break // the others would fail alike
			}
			wait = uploadAgainMin
		}
		var again <-chan time.Time
		timer := time.NewTimer(wait)
		if left {
			again, wait = timer.C, min(2*wait, uploadAgainMax)
		}
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-b.wake:
			wait = uploadAgainMin
		case <-again:
		}
		timer.Stop()
	}
}

// hand hands over one bundle; an error is one to try again after.
func (b *bundles) hand(ctx context.Context, n bundleNote) error {
	ctx, cancel := context.WithTimeout(ctx, uploadTurn)
	defer cancel()
	name := b.path(n.ID, bundleExt)
	err := func() error {
		sum, size, err := hashFile(name)
		if err == nil && (sum != n.SHA256 || size != n.Bytes) {
			return fmt.Errorf("%w: its file is no more what was made", oob.ErrBundleRefused)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w: %w", oob.ErrBundleRefused, err)
		}
		if err != nil {
			return err
		}
		f, err := atomicfile.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		return b.put.PutBundle(ctx, oob.BundleInfo{ID: n.ID, SHA256: n.SHA256, Size: n.Bytes, Reason: n.Reason, Made: n.Made}, f)
	}()
	switch {
	case err == nil:
		n.Complete = true
		b.log.Info("the server has the bundle", "bundle", n.ID, "bytes", n.Bytes)
	case errors.Is(err, oob.ErrBundleRefused):
		n.Refused = err.Error()
		b.log.Error("bundle given up", "bundle", n.ID, "error", err)
	default:
		return err
	}
	b.mu.Lock()
	done := b.waiting[n.ID]
	delete(b.waiting, n.ID)
	b.last = nil
	b.mu.Unlock()
	if done != nil {
		done <- err // it has room
	}
	if _, err := os.Stat(name); err != nil { // pruned meanwhile
		return nil
	}
	if err := b.write(n); err != nil { // asked again at the next start: no harm
		b.log.Warn("a bundle's note can't be written", "bundle", n.ID, "error", err)
	}
	return nil
}

func (b *bundles) path(id, ext string) string { return filepath.Join(b.dir, id+ext) }

func (b *bundles) write(n bundleNote) error {
	raw, err := json.MarshalIndent(n, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.Write(b.path(n.ID, noteExt), append(raw, '\n'), 0o600)
}

func (b *bundles) drop(id string) error {
	return errors.Join(os.Remove(b.path(id, bundleExt)), os.Remove(b.path(id, noteExt)))
}

// notes reads what is there, the oldest first.
func (b *bundles) notes() (all []bundleNote) {
	list, err := os.ReadDir(b.dir)
	if err != nil {
		return nil // none was made yet
	}
	for _, e := range list { // by name: ids are in order of time
		id, ok := strings.CutSuffix(e.Name(), noteExt)
		if info, err := e.Info(); !ok || err != nil || !info.Mode().IsRegular() || info.Size() > maxNote {
			continue
		}
		raw, err := os.ReadFile(filepath.Join(b.dir, e.Name()))
		var n bundleNote
		if err != nil || json.Unmarshal(raw, &n) != nil || n.ID != id {
			continue
		}
		all = append(all, n)
	}
	return all
}

// tidy removes what an earlier run left half made, while nothing is being made. An error
// says that ctx has ended before.
func (b *bundles) tidy(ctx context.Context) error {
	release, err := b.turn(ctx)
	if err != nil {
		return err
	}
	defer release()
	known := map[string]bool{}
	for _, n := range b.notes() {
		if exists(b.path(n.ID, bundleExt)) {
			known[n.ID] = true
		}
	}
	list, err := os.ReadDir(b.dir)
	if err != nil {
		return nil // none was made yet
	}
	for _, e := range list {
		id, _, _ := strings.Cut(e.Name(), ".")
		if !known[id] || strings.HasSuffix(e.Name(), partialExt) {
			if err := os.Remove(filepath.Join(b.dir, e.Name())); err != nil {
				b.log.Warn("a leftover can't be removed", "file", e.Name(), "error", err)
			}
		}
	}
	return nil
}

// prune removes bundles until at most count and bytes are left.
func (b *bundles) prune(count int, bytes int64) error {
	var failed error
	for _, id := range surplus(b.notes(), count, bytes) {
		b.log.Info("old bundle removed", "bundle", id)
		failed = errors.Join(failed, b.drop(id))
		b.mu.Lock()
		done := b.waiting[id]
		delete(b.waiting, id)
		b.mu.Unlock()
		if done != nil {
			done <- fmt.Errorf("bundle %s was removed before the server had it, for newer ones", id)
		}
	}
	return failed
}

// surplus names the bundles, of all in order of age, to be removed until at most
// count and bytes are left: first those that wait for nothing, then the oldest.
func surplus(all []bundleNote, count int, bytes int64) (ids []string) {
	total := int64(0)
	for _, n := range all {
		total += n.Bytes
	}
	order := slices.Clone(all)
	slices.SortStableFunc(order, func(x, y bundleNote) int {
		switch {
		case x.waits() == y.waits():
			return 0
		case x.waits():
			return 1
		}
		return -1
	})
	for i, n := range order {
		if len(all)-i <= count && total <= bytes {
			break
		}
		ids, total = append(ids, n.ID), total-n.Bytes
	}
	return ids
}

// hashFile gives the SHA-256 (hex) and the size of a file.
func hashFile(name string) (sum string, size int64, err error) {
	f, err := os.Open(name)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	h := sha256.New()
	size, err = io.Copy(h, io.LimitReader(f, wire.MaxBundle+1))
	if err == nil && size > wire.MaxBundle {
		err = fmt.Errorf("it has more than %d bytes", wire.MaxBundle)
	}
	return hex.EncodeToString(h.Sum(nil)), size, err
}
