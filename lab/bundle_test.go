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
	"strings"
	"syscall"
	"testing"
	"time"

	"gururmm/lab/proxy"
	"gururmm/operator"
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
	if _, err := s.agent.SignalWorker(t.Context(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	struck := time.Now()
	var found map[string][]byte
	s.eventually("a bundle with the stacks of both processes", func() (bool, error) {
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
			own, worker := "", ""
			for name, data := range found {
				switch {
				case name == "stacks/guardian.txt":
					own = string(data)
				case strings.HasPrefix(name, "stacks/") && strings.Contains(name, "worker"):
					worker += string(data)
				}
			}
			if strings.Contains(b.Reason, "verdict ") && strings.Contains(own, "goroutine ") && strings.Contains(worker, "goroutine ") {
				t.Logf("bundle for %q of %d bytes, complete %v after the link and the worker were lost", b.Reason, b.Size, time.Since(struck).Round(100*time.Millisecond))
				return true, nil
			}
			why = fmt.Errorf("bundle for %q: %d bytes of the guardian's stacks, %d of the worker's", b.Reason, len(own), len(worker))
		}
		return false, why
	})
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
