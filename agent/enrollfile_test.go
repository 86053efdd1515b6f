package agent

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gururmm/agent/local"
	"gururmm/agent/state"
	"gururmm/wire"
)

func TestAnOrderOfWordsIsReadAsItWasMeant(t *testing.T) {
	pin := "sha256/47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
	raw := writeOrder([]string{"SERVER_URL=https://a:1", "ENROLL_TOKEN=", "TOKEN_FILE=C:\\a b\\t", "PIN=" + pin, "CA_FILE="})
	got, err := parseEnrollFile(raw)
	if want := (EnrollOptions{Server: "https://a:1", Pin: pin, TokenFile: `C:\a b\t`}); err != nil || got != want {
		t.Errorf("%q: %+v, %v", raw, got, err)
	}
}

func TestEnrollFileIsUnderstoodOrItsLineIsNamed(t *testing.T) {
	for name, c := range map[string]struct {
		text, wrong string // wrong: in the error; "": none
		want        EnrollOptions
	}{
		"whole":      {"# made by hand\nSERVER_URL=https://a:1\n PIN = \"sha256/x\" \r\n\nENROLL_TOKEN='gre_S'\n", "", EnrollOptions{Server: "https://a:1", Pin: "sha256/x", Token: "gre_S"}},
		"token file": {"SERVER_URL=https://a\nCA_FILE=/c\nTOKEN_FILE=/t", "", EnrollOptions{Server: "https://a", CAFile: "/c", TokenFile: "/t"}},
		"a BOM":      {"\ufeffSERVER_URL=https://a\nENROLL_TOKEN=gre_S", "", EnrollOptions{Server: "https://a", Token: "gre_S"}},
		"no server":  {"ENROLL_TOKEN=gre_S", "SERVER_URL", EnrollOptions{}},
		"no token":   {"SERVER_URL=https://a", "ENROLL_TOKEN or TOKEN_FILE", EnrollOptions{}},
		"both":       {"SERVER_URL=https://a\nENROLL_TOKEN=gre_S\nTOKEN_FILE=/t", "one of both", EnrollOptions{}},
		"twice":      {"SERVER_URL=https://a\nENROLL_TOKEN=gre_S\nENROLL_TOKEN=gre_S2", "line 3", EnrollOptions{}},
		"unknown":    {"SERVER_URL=https://a\ngre_S=gre_S", "line 2", EnrollOptions{}},
		"no key":     {"gre_S", "line 1", EnrollOptions{}},
	} {
		got, err := parseEnrollFile([]byte(c.text))
		switch {
		case c.wrong == "" && (err != nil || got != c.want):
			t.Errorf("%s: %+v, %v", name, got, err)
		case c.wrong != "" && (err == nil || !strings.Contains(err.Error(), c.wrong)):
			t.Errorf("%s: %v does not say %q", name, err, c.wrong)
		case err != nil && strings.Contains(err.Error(), "gre_S"):
			t.Errorf("%s: the error shows what may be the token: %v", name, err)
		}
	}
}

// ordered is a file with an order to enroll, its token in another one.
func ordered(t *testing.T) (path, token string) {
	t.Helper()
	dir := t.TempDir()
	path, token = filepath.Join(dir, "enroll.conf"), filepath.Join(dir, "token")
	for file, text := range map[string]string{path: "SERVER_URL=https://a:1\nTOKEN_FILE=" + token + "\n", token: "gre_S\n"} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return path, token
}

func TestEnrollFileThatOthersMayReadIsRefused(t *testing.T) {
	if runtime.GOOS == "windows" { // there its folder is private, or nothing is
		return
	}
	path, token := ordered(t)
	if _, _, err := readEnrollFile(path); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{path, token} {
		if err := os.Chmod(file, 0o640); err != nil {
			t.Fatal(err)
		}
		if _, _, err := readEnrollFile(path); err == nil || !strings.Contains(err.Error(), file) || !strings.Contains(err.Error(), "chmod 600") {
			t.Errorf("%s of mode 0640: %v", file, err)
		}
		if err := os.Chmod(file, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(path, []byte("SERVER_URL=https://a:1\nTOKEN_FILE=token\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := readEnrollFile(path); err == nil || !strings.Contains(err.Error(), "whole path") {
		t.Errorf("a path that is relative to nobody knows what: %v", err)
	}
}

// An order is tried until it is carried out, more and more rarely while the server can't be
// reached, and not again once the server has refused its token, until it is another order.
func TestEnrollingTriesWhatMayComeToSomethingElse(t *testing.T) {
	path, token := ordered(t)
	var wg sync.WaitGroup
	defer wg.Wait()
	var answer error
	tried := 0
	e := enrolling{file: path, wg: &wg, attempt: func(_ context.Context, o EnrollOptions) error {
		if tried++; o.Server != "https://a:1" || o.TokenFile != token {
			t.Errorf("tried with %+v", o)
		}
		return answer
	}}
	now := time.Now()
	turn := func(want local.Enrollment, tries int) {
		t.Helper()
		how, _ := e.turn(t.Context(), now)
		if e.done != nil {
			if again, _ := e.turn(t.Context(), now); again != local.EnrollTrying {
				t.Errorf("while an attempt is under way: %q", again)
			}
			e.came(<-e.done, now)
		}
		if how != want || tried != tries {
			t.Errorf("%q after %d attempts, want %q after %d", how, tried, want, tries)
		}
	}
	answer = errors.New("nothing listens there")
	turn(local.EnrollTrying, 1)
	turn(local.EnrollTrying, 1) // not at once
	now = now.Add(2 * enrollMin)
	turn(local.EnrollTrying, 2)
	if wait := e.next.Sub(now); wait < enrollMin || wait > enrollMax {
		t.Errorf("the next attempt after %v", wait)
	}
	now = now.Add(enrollMax)
	answer = &state.EnrollError{Err: wire.Problem{Title: "no such token", Code: wire.ProblemToken}}
	turn(local.EnrollTrying, 3)
	now = now.Add(time.Hour)
	turn(local.EnrollRefused, 3)
	if _, why := e.turn(t.Context(), now); !errors.Is(why, answer) {
		t.Errorf("why: %v", why)
	}
	// Another token in the same place.
	if err := os.WriteFile(token, []byte("gre_ANOTHER\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	answer = nil
	turn(local.EnrollTrying, 4)
	// An order whose token is missing is an order, and says what it lacks.
	if err := os.Remove(token); err != nil {
		t.Fatal(err)
	}
	turn(local.EnrollRefused, 4)
	if _, why := e.turn(t.Context(), now); why == nil || !strings.Contains(why.Error(), "TOKEN_FILE") || !strings.Contains(why.Error(), token) {
		t.Errorf("why: %v", why)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	turn(local.EnrollNone, 4)
}

func TestNoTokenIsLeftBehind(t *testing.T) {
	path, token := ordered(t)
	s := &Setup{EnrollFile: path}
	s.dropEnrollFile(slog.New(slog.DiscardHandler))
	for _, file := range []string{path, token} {
		if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is left: %v", file, err)
		}
	}
	// The token's file is gone already: the order goes all the same.
	path, token = ordered(t)
	if err := os.Remove(token); err != nil {
		t.Fatal(err)
	}
	s.EnrollFile = path
	s.dropEnrollFile(slog.New(slog.DiscardHandler))
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an order without its token's file is left: %v", err)
	}
	// Nobody knows which file a relative path means: what has that name here is not the token's.
	dir := t.TempDir()
	t.Chdir(dir)
	if err := os.WriteFile("token", []byte("another's"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.EnrollFile = filepath.Join(dir, "enroll.conf")
	if err := os.WriteFile(s.EnrollFile, []byte("SERVER_URL=https://a:1\nTOKEN_FILE=token\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.dropEnrollFile(slog.New(slog.DiscardHandler))
	if _, err := os.Stat(s.EnrollFile); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is left: %v", s.EnrollFile, err)
	}
	if _, err := os.Stat("token"); err != nil {
		t.Errorf("another file was erased: %v", err)
	}
	// What can't be removed is emptied, and an empty file orders nothing.
	path, _ = ordered(t)
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	if _, _, err := readEnrollFile(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an empty file: %v", err)
	}
}

// A stop does not cut off an attempt whose token may be spent already, and does not wait for ever.
func TestAnAttemptOutlastsAStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		longer, end := outlasting(ctx, enrollLinger)
		defer end()
		stop()
		began := time.Now()
		<-longer.Done()
		if took := time.Since(began); took != enrollLinger {
			t.Errorf("it went on for %v, want %v", took, enrollLinger)
		}
		done, end := outlasting(ctx, enrollLinger) // of a stop that has been
		end()
		<-done.Done()
	})
}
