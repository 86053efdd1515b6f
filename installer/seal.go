package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"gururmm/release"
)

const sumsName = "SHA256SUMS"

// seal writes SHA256SUMS and, with a key, a signature of each file beside it; it gives all
// names.
func seal(o order, dir string, names []string) ([]string, error) {
	var sums strings.Builder
	for _, name := range names {
		sum, err := sumOf(filepath.Join(dir, name))
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&sums, "%s  %s\n", sum, name)
	}
	if err := os.WriteFile(filepath.Join(dir, sumsName), []byte(sums.String()), 0o644); err != nil {
		return nil, err
	}
	names = append(names, sumsName)
	if o.key == nil {
		return names, nil
	}
	all := names
	for _, name := range names {
		f, err := os.Open(filepath.Join(dir, name))
		if err != nil {
			return nil, err
		}
		signature, err := release.SignFile(*o.key, f, name, o.version)
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("sign %s: %w", name, err)
		}
		if err := os.WriteFile(filepath.Join(dir, name+".minisig"), signature, 0o644); err != nil {
			return nil, err
		}
		all = append(all, name+".minisig")
	}
	return all, nil
}

// sumOf is a file's SHA-256, in hex.
func sumOf(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// maxSecret bounds a key's and a password's file in bytes.
const maxSecret = 4 << 10

func readKey(file, passwordFile string) (release.PrivateKey, error) {
	raw, err := readSmall(file)
	if err != nil {
		return release.PrivateKey{}, err
	}
	password := ""
	if passwordFile != "" {
		text, err := readSmall(passwordFile)
		if err != nil {
			return release.PrivateKey{}, err
		}
		password = strings.TrimRight(string(text), "\r\n")
	}
	key, err := release.ParsePrivateKey(raw, password)
	if errors.Is(err, release.ErrPassword) && password == "" {
		err = errors.New("it has a password: give --sign-password-file (make packages SIGN_PASSWORD_FILE=…)")
	}
	return key, err
}

func readSmall(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err == nil && len(raw) > maxSecret {
		err = fmt.Errorf("%s is larger than %d bytes", path, maxSecret)
	}
	return raw, err
}
