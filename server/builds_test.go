package server

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gururmm/operator"
	"gururmm/release"
	"gururmm/wire"
)

// ownProgram is an executable of this platform: the test itself.
var ownProgram = sync.OnceValues(func() ([]byte, error) {
	path, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return os.ReadFile(path)
})

// releaser signs programs for a server that trusts its key.
type releaser struct {
	pub  release.Key
	priv release.PrivateKey
	data []byte
}

func newReleaser(t *testing.T) *releaser {
	t.Helper()
	data, err := ownProgram()
	if err != nil {
		t.Fatal(err)
	}
	pub, priv, err := release.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return &releaser{pub, priv, data}
}

func (r *releaser) trusted(c *Config) { c.ReleaseKeys = []string{r.pub.String()} }

func (r *releaser) sign(t *testing.T, version string) wire.Build {
	t.Helper()
	b, err := release.Sign(r.priv, bytes.NewReader(r.data), version, runtime.GOOS, runtime.GOARCH)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// client is an operator's.
func (n *node) client() *operator.Client {
	n.t.Helper()
	c, err := operator.New(n.Info().URL, n.Info().OperatorToken, &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		n.t.Fatal(err)
	}
	c.SetDial(n.dial)
	n.t.Cleanup(c.Close)
	return c
}

// download fetches a program as an agent.
func (n *node) download(id identity, sha256 string, header http.Header) *http.Response {
	n.t.Helper()
	req, err := http.NewRequestWithContext(n.t.Context(), "GET", n.Info().OOBURL+"/v1/oob/builds/"+sha256, nil)
	if err != nil {
		n.t.Fatal(err)
	}
	if header != nil {
		req.Header = header
	}
	req.Header.Set("Authorization", "Bearer "+id.token(nil))
	res, err := n.http.Do(req)
	if err != nil {
		n.t.Fatal(err)
	}
	return res
}

func TestAPublishedProgramIsFetchedByTheSecondDoor(t *testing.T) {
	r := newReleaser(t)
	n := start(t, false, r.trusted)
	id := n.enroll("alpha")
	if len(id.ReleaseKeys) != 1 || id.ReleaseKeys[0] != r.pub.String() {
		t.Errorf("enrollment tells the release keys %v", id.ReleaseKeys)
	}
	c, b := n.client(), r.sign(t, "v1.2.3")
	if err := c.Publish(t.Context(), b, bytes.NewReader(r.data)); err != nil {
		t.Fatal(err)
	}
	list, err := c.Builds(t.Context())
	if err != nil || len(list) != 1 || list[0].Build != b || list[0].PublishedBy != "first" {
		t.Fatalf("%+v, %v", list, err)
	}

	res := n.download(id, b.SHA256, nil)
	raw, err := io.ReadAll(res.Body)
	res.Body.Close()
	tag := res.Header.Get("ETag")
	if err != nil || res.StatusCode != http.StatusOK || !bytes.Equal(raw, r.data) || tag != `"`+b.SHA256+`"` || res.Header.Get(wire.HeaderTime) == "" {
		t.Errorf("whole: %d, %d bytes, ETag %s, %v", res.StatusCode, len(raw), tag, err)
	}
	from := len(r.data) - 1000
	res = n.download(id, b.SHA256, http.Header{"Range": {fmt.Sprintf("bytes=%d-", from)}, "If-Range": {tag}})
	raw, err = io.ReadAll(res.Body)
	res.Body.Close()
	if err != nil || res.StatusCode != http.StatusPartialContent || !bytes.Equal(raw, r.data[from:]) {
		t.Errorf("the rest: %d, %d bytes, %v", res.StatusCode, len(raw), err)
	}
	for _, name := range []string{strings.Repeat("ab", 32), "..%2fgururmm.db"} {
		if status, _, raw := n.request("GET", n.Info().OOBURL+"/v1/oob/builds/"+name, id.token(nil), nil); status != http.StatusNotFound {
			t.Errorf("%s: %d %.80s", name, status, raw)
		}
	}
	if status, _, raw := n.request("GET", n.Info().OOBURL+"/v1/oob/builds/"+b.SHA256, "", nil); status != http.StatusUnauthorized {
		t.Errorf("by nobody: %d %.80s", status, raw)
	}
	if removed, err := c.RemoveBuilds(t.Context(), "v1.2.3"); err != nil || len(removed) != 1 {
		t.Errorf("removed %v, %v", removed, err)
	}
	if _, err := c.RemoveBuilds(t.Context(), "v1.2.3"); err == nil || !strings.Contains(err.Error(), "v1.2.3") {
		t.Errorf("removed twice: %v", err)
	}
}

func TestDownloadsOfOneAgentAreBounded(t *testing.T) {
	r := newReleaser(t)
	n := start(t, false, r.trusted)
	id, other := n.enroll("alpha"), n.enroll("beta")
	b := r.sign(t, "v1.2.3")
	if err := n.client().Publish(t.Context(), b, bytes.NewReader(r.data)); err != nil {
		t.Fatal(err)
	}
	for range 2 { // not read to their ends
		res := n.download(id, b.SHA256, nil)
		defer res.Body.Close()
		if res.StatusCode != http.StatusOK {
			t.Fatal(res.Status)
		}
	}
	if status, _, raw := n.request("GET", n.Info().OOBURL+"/v1/oob/builds/"+b.SHA256, id.token(nil), nil); status != http.StatusTooManyRequests {
		t.Errorf("a third at once: %d %.80s", status, raw)
	}
	res := n.download(other, b.SHA256, nil)
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		t.Errorf("another agent: %s", res.Status)
	}
}

// A link of a few kilobytes a second takes an hour, and gets it whole.
func TestASlowDownloadIsNotCutOff(t *testing.T) {
	r := newReleaser(t)
	synctest.Test(t, func(t *testing.T) {
		n := start(t, true, r.trusted)
		defer n.stop()
		id, b := n.enroll("alpha"), r.sign(t, "v1.2.3")
		c := n.client()
		if err := c.Publish(t.Context(), b, bytes.NewReader(r.data)); err != nil {
			t.Fatal(err)
		}
		c.Close()
		res := n.download(id, b.SHA256, nil)
		defer res.Body.Close()
		var got []byte
		for piece := make([]byte, 32<<10); len(got) < 4<<20; {
			k, err := io.ReadFull(res.Body, piece)
			if got = append(got, piece[:k]...); err != nil {
				t.Fatalf("after %d bytes: %v", len(got), err)
			}
			time.Sleep(20 * time.Second)
		}
		rest, err := io.ReadAll(res.Body)
		if err != nil || !bytes.Equal(append(got, rest...), r.data) {
			t.Errorf("%d and %d bytes of %d, %v", len(got), len(rest), len(r.data), err)
		}
	})
}

func TestWhatIsRefusedSaysWhyBeforeItIsSent(t *testing.T) {
	r := newReleaser(t)
	bare := start(t, false, nil)
	b := r.sign(t, "v1.2.3")
	unread := &counting{Reader: bytes.NewReader(r.data)}
	if err := bare.client().Publish(t.Context(), b, unread); err == nil || !strings.Contains(err.Error(), "--release-key") || unread.n > 0 {
		t.Errorf("no key: %v, %d bytes were sent", err, unread.n)
	}
	other := newReleaser(t)
	n := start(t, false, other.trusted)
	if err := n.client().Publish(t.Context(), b, unread); err == nil || !strings.Contains(err.Error(), other.pub.ID()) || unread.n > 0 {
		t.Errorf("another key: %v, %d bytes were sent", err, unread.n)
	}
	status, _, raw := n.request("PUT", n.Info().URL+"/v1/builds/"+b.SHA256, n.Info().OperatorToken, []byte("x"))
	if status != http.StatusBadRequest || !strings.Contains(string(raw), operator.HeaderSignature) {
		t.Errorf("no signature: %d %s", status, raw)
	}
}

type counting struct {
	io.Reader
	n int
}

func (c *counting) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += n
	return n, err
}
