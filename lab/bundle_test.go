//go:build unix

package lab_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"gururmm/lab/harness"
	"gururmm/lab/proxy"
	"gururmm/operator"
	"gururmm/wire"
)

// TestABundleArrivesByItself: with the link deaf both ways and the worker frozen,
// what support needs comes by the second door, and nobody asked for it.
func TestABundleArrivesByItself(t *testing.T) {
	s := newScene(t)
	for _, dir := range []proxy.Direction{proxy.Up, proxy.Down} {
		if err := s.Proxy.Set(dir, proxy.Fault{Kind: proxy.DropText}); err != nil {
			t.Fatal(err)
		}
	}
	frozen := s.status().Worker.Generation
	if _, err := s.agent.SignalWorker(t.Context(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	struck := time.Now()
	var found map[string][]byte
	// The frozen worker's own dump, told from its successor's by its number.
	dump := regexp.MustCompile(fmt.Sprintf(`(?s)\Aworker %d at [^\n]*\n\n.*\ngururmm/agent/worker\.\(\*worker\)\.run\(`, frozen))
	s.eventually("a bundle with the stacks of the guardian and of the worker that was frozen", func() (bool, error) {
		list, err := s.Client().Bundles(t.Context(), s.agent.ID)
		if err != nil {
			return false, err
		}
		why := fmt.Errorf("%d bundles: %+v", len(list), list)
		for _, b := range list {
			if !b.Complete {
				continue
			}
			if found, err = s.unpacked(b); err != nil {
				return false, err
			}
			own, worker, kept := "", "", 0
			for name, data := range found {
				switch {
				case name == "stacks/guardian.txt":
					own = string(data)
				case strings.HasPrefix(name, "stacks/kept/worker-"):
					if kept++; dump.Match(data) {
						worker = name
					}
				}
			}
			if strings.Contains(b.Reason, "verdict ") && strings.Contains(own, "gururmm/agent/guardian.(*Guardian).") && worker != "" {
				t.Logf("bundle for %q of %d bytes, complete %v after the link and the worker were lost", b.Reason, b.Size, time.Since(struck).Round(100*time.Millisecond))
				return true, nil
			}
			why = fmt.Errorf("bundle for %q: %d bytes of the guardian's stacks, %d dumps, none of them of worker %d in its loop", b.Reason, len(own), kept, frozen)
		}
		return false, why
	})
}

// TestAnUploadGoesOnAfterKills: kill -9 of the server while a part is on disk and not
// counted, of the agent in the middle, and of the server once more: each time it goes on
// at the part it was, and in the end the hash is right.
func TestAnUploadGoesOnAfterKills(t *testing.T) {
	const part = 4 << 10
	s := newScene(t, func(o *harness.Options) { o.AgentEnv = append(o.AgentEnv, fmt.Sprintf("GURURMM_BUNDLE_PART=%d", part)) })
	one := func() (b operator.Bundle, err error) {
		list, err := s.Client().Bundles(t.Context(), s.agent.ID)
		if err == nil && len(list) != 1 {
			err = fmt.Errorf("%d bundles", len(list))
		}
		if err == nil {
			b = list[0]
		}
		return b, err
	}
	held := func(what string, want int64) (b operator.Bundle) {
		t.Helper()
		s.eventually(what, func() (ok bool, err error) {
			if b, err = one(); err == nil && b.Held != want {
				err = fmt.Errorf("%d of %d bytes are held, want %d", b.Held, b.Size, want)
			}
			return err == nil, err
		})
		return b
	}
	restartServer := func() {
		t.Helper()
		s.Server().KillAlone()
		if err := s.StartServer(t.Context()); err != nil {
			t.Fatal(err)
		}
	}

	s.fault("bundles.written", true)
	if _, err := s.Client().Direct(t.Context(), s.agent.ID, operator.NewDirective{Kind: wire.DirectiveSendBundle, Reason: "a test"}); err != nil {
		t.Fatal(err)
	}
	s.eventually("a part on the server's disk", func() (bool, error) {
		files, err := filepath.Glob(filepath.Join(s.Dir, "server", "bundles", s.agent.ID, "*.part"))
		if err != nil || len(files) != 1 {
			return false, fmt.Errorf("%v, %v", files, err)
		}
		info, err := os.Stat(files[0])
		return err == nil && info.Size() == part, err
	})
	begun := held("a bundle that is begun", 0) // the part is not counted
	s.Server().KillAlone()
	s.fault("bundles.written", false)
	s.fault("upload.part", true)
	if err := s.StartServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	held("the first part, sent again to a server that was killed", part)

	s.agent.Guardian().KillAlone()
	if err := s.agent.Start(); err != nil {
		t.Fatal(err)
	}
	// It stops behind each part: had it begun anew, the first one would be held, no more.
	held("the second part, from an agent that was killed", 2*part)

	restartServer()
	held("what was held, at a server that was killed", 2*part)
	s.fault("upload.part", false)
	var b operator.Bundle
	s.eventually("the whole bundle", func() (ok bool, err error) {
		b, err = one()
		return err == nil && b.Complete, fmt.Errorf("%d of %d bytes, %v", b.Held, b.Size, err)
	})
	if b.ID != begun.ID || b.SHA256 != begun.SHA256 || !b.BeganAt.Equal(begun.BeganAt) || b.Size <= 3*part {
		t.Errorf("begun as %+v, complete is %+v", begun, b)
	}
	if _, err := s.unpacked(b); err != nil { // the client checks the hash of the whole
		t.Error(err)
	}
	t.Logf("bundle of %d bytes in parts of %d, complete after three kills", b.Size, part)
}

// unpacked fetches a bundle and checks each member against its manifest.
func (s *scene) unpacked(b operator.Bundle) (map[string][]byte, error) {
	var packed bytes.Buffer
	if err := s.Client().Bundle(s.t.Context(), b, &packed); err != nil {
		return nil, err
	}
	z, err := gzip.NewReader(&packed)
	if err != nil {
		return nil, err
	}
	members, in := map[string][]byte{}, tar.NewReader(z)
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if members[h.Name], err = io.ReadAll(in); err != nil {
			return nil, err
		}
	}
	var m struct {
		Bundle  string
		Members []struct{ Name, SHA256, Missing string }
	}
	if err := json.Unmarshal(members["manifest.json"], &m); err != nil || m.Bundle != b.ID {
		return nil, fmt.Errorf("manifest of bundle %s, want %s: %v", m.Bundle, b.ID, err)
	}
	for _, one := range m.Members {
		sum := sha256.Sum256(members[one.Name])
		if one.Missing == "" && hex.EncodeToString(sum[:]) != one.SHA256 {
			return nil, fmt.Errorf("%s is not what the manifest says", one.Name)
		}
	}
	return members, nil
}
