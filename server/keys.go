package server

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"gururmm/internal/atomicfile"
	"gururmm/internal/lockfile"
	"gururmm/server/store"
	"gururmm/wire"
)

// Files of the state directory.
const (
	fileServerID   = "server.id"
	fileCommandKey = "command.key"
	fileOOBKey     = "oob.key"
	fileDatabase   = "gururmm.db"
	fileLock       = "server.lock"
	dirBuilds      = "builds"
	dirBundles     = "bundles"
	fileMoved      = "gururmm.db.moved" // where fileDatabase was moved to: it is not to be used any more
	fileStarted    = "started"          // when the first start was complete: from then on a database belongs here
)

var errInUse = errors.New("another server is running on this state directory")

// certificateLife of a self-signed certificate: endpoints hold its key, not its
// dates, and nobody should have to renew what nobody asks.
const certificateLife = 10 * 365 * 24 * time.Hour

// openState makes the state directory, private to this account, or checks that it is.
func openState(dir string) error {
	info, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		err = os.MkdirAll(dir, 0o700)
		if err != nil {
			return fmt.Errorf("state_dir: %w; choose a directory that can be made and written: --state-dir DIR", err)
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("state_dir: %w", err)
	}
	if !info.IsDir() {
		return fmt.Errorf("state_dir: %s is not a directory", dir)
	}
	if info.Mode().Perm()&0o077 == 0 || os.PathSeparator == '\\' { // Windows: the access list decides
		return nil
	}
	held, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("state_dir: %w", err)
	}
	if _, err := os.Stat(filepath.Join(dir, fileServerID)); err != nil && len(held) > 0 {
		return fmt.Errorf("state_dir: %s holds other files and others may read it; give a directory of its own (mode 0700)", dir)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return fmt.Errorf("state_dir: %w", err)
	}
	return nil
}

// ownState takes the state directory for this process: two servers would hand
// out the same commands, each by its own account of who has them.
func ownState(dir string) (release func() error, err error) {
	lock, err := lockfile.Take(filepath.Join(dir, fileLock))
	held, inUse := errors.AsType[*lockfile.InUseError](err)
	switch {
	case inUse && held.PID != 0:
		return nil, fmt.Errorf("%s: %w: process %d", dir, errInUse, held.PID)
	case inUse:
		return nil, fmt.Errorf("%s: %w", dir, errInUse)
	case err != nil:
		return nil, fmt.Errorf("state_dir: %w", err)
	}
	return lock.Release, nil
}

// wholeState checks that a directory with a database has what the endpoints in
// it know this server by, and that one which has had a database still has it. Made anew
// either would lock out all of them, without a word.
func wholeState(dir string) error {
	if err := movedAway(dir); err != nil {
		return err
	}
	info, err := os.Stat(filepath.Join(dir, fileDatabase))
	if errors.Is(err, fs.ErrNotExist) || err == nil && info.Size() == 0 {
		if _, err := os.Stat(filepath.Join(dir, fileStarted)); err == nil {
			return fmt.Errorf("%s is missing or empty, but this server has run before: restore it from a backup, every agent is enrolled in it; if it ran with a PostgreSQL, name that by --database-url; or remove %s to begin anew", filepath.Join(dir, fileDatabase), filepath.Join(dir, fileStarted))
		}
		return nil // a first start, or one that did not come so far
	}
	if err != nil {
		return fmt.Errorf("state_dir: %w", err)
	}
	if err := knowsItself(dir); err != nil {
		return err
	}
	for _, name := range []string{fileServerID, fileCommandKey, fileOOBKey} {
		path := filepath.Join(dir, name)
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s is missing beside a database: restore it from a backup, every agent trusts it; or move %s away to begin anew", path, fileDatabase)
		}
	}
	return nil
}

// knowsItself refuses a database in which there is nothing though this server has run: its
// write-ahead log is gone, as where the database's file alone was copied.
func knowsItself(dir string) error {
	path, started := filepath.Join(dir, fileDatabase), filepath.Join(dir, fileStarted)
	if _, err := os.Stat(started); err != nil {
		return nil
	}
	if blank, err := store.Blank(path); err != nil || !blank {
		return nil // damage is told of where it is opened for good
	}
	return fmt.Errorf("%s has nothing in it, but this server has run before: %s-wal, which held the rest, was lost; restore both from a backup, every agent is enrolled in it; or remove %s and the database to begin anew",
		path, filepath.Base(path), started)
}

// serverID reads the server's id, made on first start.
func serverID(dir string) (string, error) {
	path := filepath.Join(dir, fileServerID)
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		id := wire.NewID()
		return id, atomicfile.Write(path, []byte(id+"\n"), 0o600)
	}
	if err != nil {
		return "", err
	}
	id := strings.TrimSpace(string(raw))
	if len(id) != 36 {
		return "", fmt.Errorf("%s is damaged: want an id of 36 characters; restore it from a backup, every agent knows it", path)
	}
	return id, nil
}

// commandKey reads the key that signs commands, made on first start.
func commandKey(dir string) (ed25519.PrivateKey, error) {
	path := filepath.Join(dir, fileCommandKey)
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return nil, err
		}
		return key, writeKey(path, key)
	}
	if err != nil {
		return nil, err
	}
	damaged := fmt.Errorf("%s is damaged: want an Ed25519 key in PEM (PKCS #8); restore it from a backup, every agent trusts it", path)
	block, _ := pem.Decode(raw)
	if block == nil {
		return nil, damaged
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	key, ok := parsed.(ed25519.PrivateKey)
	if err != nil || !ok {
		return nil, damaged
	}
	return key, nil
}

func writeKey(path string, key any) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return atomicfile.Write(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
}

// selfSigned reads the certificate name.crt with its key name.key, both made on
// first start.
func selfSigned(dir, name string, now time.Time) (tls.Certificate, error) {
	crt, key := filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key")
	_, err := os.Stat(crt)
	if errors.Is(err, fs.ErrNotExist) {
		// The certificate is written last: where it is, its key is too.
		if err := makeCertificate(crt, key, now); err != nil {
			return tls.Certificate{}, fmt.Errorf("make certificate %s: %w", crt, err)
		}
	}
	pair, err := tls.LoadX509KeyPair(crt, key)
	if err != nil {
		return pair, fmt.Errorf("%s and %s are damaged (%w); restore them from a backup, agents have pinned the key", crt, key, err)
	}
	return pair, nil
}

func makeCertificate(crt, keyFile string, now time.Time) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 126))
	if err != nil {
		return err
	}
	names, ips := ownNames()
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: "GuruRMM " + names[0]},
		// A day back: endpoints' clocks are wrong in both directions.
		NotBefore: now.Add(-24 * time.Hour), NotAfter: now.Add(certificateLife),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true, IsCA: true, // so that it serves as its own CA file
		DNSNames: names, IPAddresses: ips,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	if err := writeKey(keyFile, key); err != nil {
		return err
	}
	return atomicfile.Write(crt, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644)
}

// ownNames are the names and addresses this machine may be called by.
func ownNames() (names []string, ips []net.IP) {
	names = []string{"localhost"}
	if host, err := os.Hostname(); err == nil && host != "" && host != "localhost" {
		names = append([]string{host}, names...)
	}
	ips = []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return names, ips // loopback and names still serve
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
			ips = append(ips, n.IP)
		}
	}
	return names, ips
}
