package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gururmm/oob"
	"gururmm/wire"
)

// depot is a server that takes bundles, unless err says why not.
type depot struct {
	mu  sync.Mutex
	err error
	got map[string]string // id → content
	log []string
}

func (d *depot) PutBundle(ctx context.Context, b oob.BundleInfo, r io.ReaderAt) error {
	data, err := io.ReadAll(io.NewSectionReader(r, 0, b.Size))
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.log = append(d.log, b.Reason)
	if d.err == nil {
		d.got[b.ID] = string(data)
	}
	return d.err
}

func (d *depot) be(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.err = err
}

func (d *depot) count() (got, asked int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.got), len(d.log)
}

// testBundles are bundles whose process writes the reason.
func testBundles(t *testing.T, dir string, d *depot) *bundles {
	t.Helper()
	return &bundles{
		dir: dir, put: d, log: slog.New(slog.DiscardHandler), wake: make(chan struct{}, 1), making: make(chan struct{}, 1), waiting: map[string]chan error{},
		make: func(_ context.Context, file, id, reason string, brief bool) error {
			return os.WriteFile(file, fmt.Appendf(nil, "%s %v", reason, brief), 0o600)
		},
	}
}

// uploading runs Upload until the function it gives is called.
func uploading(b *bundles) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.Upload(ctx)
	}()
	return func() { cancel(); <-done }
}

func TestABundleWaitsForItsDoorAcrossRestarts(t *testing.T) {
	dir := filepath.Join(t.TempDir(), bundlesDir)
	synctest.Test(t, func(t *testing.T) {
		d := &depot{got: map[string]string{}, err: errors.New("all doors are down")}
		b := testBundles(t, dir, d)
		stop := uploading(b)
		type told struct {
			detail string
			report json.RawMessage
			err    error
		}
		end := make(chan told, 1)
		go func() {
			detail, report, err := b.errand(context.Background(), wire.Directive{Reason: "by order"})
			end <- told{detail, report, err}
		}()
		e := <-end
		var r struct {
			Bundle string
			Bytes  int64
		}
		if err := json.Unmarshal(e.report, &r); err != nil || r.Bundle == "" || r.Bytes != int64(len("by order false")) {
			t.Fatalf("%v, report %s", err, e.report)
		}
		if e.err == nil || !strings.Contains(e.err.Error(), "all doors are down") || !strings.Contains(e.err.Error(), "goes on by itself") {
			t.Errorf("the errand ended with %v", e.err)
		}
		if _, asked := d.count(); asked < 3 || asked > 20 {
			t.Errorf("asked %d times in %v", asked, errandWithin)
		}
		stop()

		// A kill in the middle of the next leaves its beginning behind.
		for _, name := range []string{wire.NewID() + partialExt, wire.NewID() + bundleExt, wire.NewID() + noteExt} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte("{"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		d.be(nil)
		b = testBundles(t, dir, d)
		stop = uploading(b)
		time.Sleep(time.Second)
		synctest.Wait()
		if got, _ := d.count(); got != 1 || d.got[r.Bundle] != "by order false" {
			t.Errorf("after a restart: %v", d.got)
		}
		if list, err := os.ReadDir(dir); err != nil || len(list) != 2 {
			t.Errorf("left on disk: %v, %v", list, err)
		}
		_, before := d.count()
		if detail, err := b.Make(context.Background(), "by itself"); err != nil || !strings.Contains(detail, "14 bytes") {
			t.Errorf("%q, %v", detail, err)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if got, asked := d.count(); got != 2 || asked != before+1 {
			t.Errorf("%d arrived, asked %d times: what is complete was asked for again", got, asked-before)
		}
		if detail, _, err := b.errand(context.Background(), wire.Directive{}); err != nil || !strings.Contains(detail, "the server has bundle") {
			t.Errorf("%q, %v", detail, err)
		}
		stop()
	})
}

func TestABundleThatIsRefusedIsGivenUp(t *testing.T) {
	dir := filepath.Join(t.TempDir(), bundlesDir)
	synctest.Test(t, func(t *testing.T) {
		d := &depot{got: map[string]string{}, err: fmt.Errorf("%w: another by this id", oob.ErrBundleRefused)}
		b := testBundles(t, dir, d)
		stop := uploading(b)
		if _, _, err := b.errand(context.Background(), wire.Directive{}); !errors.Is(err, oob.ErrBundleRefused) {
			t.Errorf("the errand ended with %v", err)
		}
		stop()
		d.be(nil)
		stop = uploading(testBundles(t, dir, d))
		time.Sleep(time.Hour)
		stop()
		if got, asked := d.count(); got != 0 || asked != 1 {
			t.Errorf("%d arrived, asked %d times", got, asked)
		}
	})
}

func TestWhatWasAlteredOnDiskIsNotSent(t *testing.T) {
	dir := filepath.Join(t.TempDir(), bundlesDir)
	d := &depot{got: map[string]string{}}
	b := testBundles(t, dir, d)
	if _, err := b.Make(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	n := b.notes()[0]
	if err := os.WriteFile(b.path(n.ID, bundleExt), []byte("b true"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := b.hand(t.Context(), n); err != nil {
		t.Error(err)
	}
	if n = b.notes()[0]; n.Refused == "" || len(d.log) != 0 {
		t.Errorf("%+v, asked %d times", n, len(d.log))
	}
}

func TestBundlesOnDiskAreFew(t *testing.T) {
	dir := filepath.Join(t.TempDir(), bundlesDir)
	d := &depot{got: map[string]string{}}
	b := testBundles(t, dir, d)
	for i := range 9 {
		if _, err := b.Make(t.Context(), fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
		if i == 4 { // this one has arrived: it goes first
			if err := b.hand(t.Context(), b.notes()[4]); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(2 * time.Millisecond) // ids are in order of milliseconds
	}
	var left []string
	for _, n := range b.notes() {
		left = append(left, n.Reason)
	}
	if list, err := os.ReadDir(dir); err != nil || len(list) != 2*keepBundles || strings.Join(left, " ") != "3 5 6 7 8" {
		t.Errorf("left: %v, %d files, %v", left, len(list), err)
	}
	all := []bundleNote{{ID: "a", Bytes: 10}, {ID: "b", Bytes: 20, Complete: true}, {ID: "c", Bytes: 30}, {ID: "d", Bytes: 5, Refused: "no"}}
	for _, c := range []struct {
		count int
		bytes int64
		want  string
	}{{4, 65, ""}, {3, 65, "b"}, {2, 65, "b d"}, {1, 65, "b d a"}, {4, 64, "b"}, {4, 40, "b d"}, {4, 39, "b d a"}, {4, 0, "b d a c"}} {
		if got := strings.Join(surplus(all, c.count, c.bytes), " "); got != c.want {
			t.Errorf("at most %d and %d bytes: %q, want %q", c.count, c.bytes, got, c.want)
		}
	}
}

// Whoever waits until another bundle is made waits no longer than it wants to.
func TestAWaitForAnotherBundleEndsWithItsContext(t *testing.T) {
	dir := filepath.Join(t.TempDir(), bundlesDir)
	synctest.Test(t, func(t *testing.T) {
		b := testBundles(t, dir, &depot{got: map[string]string{}})
		write := b.make
		b.make = func(ctx context.Context, file, id, reason string, brief bool) error {
			time.Sleep(time.Hour)
			return write(ctx, file, id, reason, brief)
		}
		first := make(chan error, 1)
		go func() {
			_, err := b.Make(context.Background(), "first")
			first <- err
		}()
		synctest.Wait()
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := b.Make(ctx, "second"); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != time.Minute {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		b.Upload(ctx) // it would tidy first
		if took := time.Since(began); took != time.Minute {
			t.Errorf("an upload that was to end took until %v", took)
		}
		if err := <-first; err != nil {
			t.Error(err)
		}
		if _, err := b.Make(t.Context(), "third"); err != nil || len(b.notes()) != 2 {
			t.Errorf("%d bundles, %v", len(b.notes()), err)
		}
	})
}
