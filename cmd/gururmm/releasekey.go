package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"gururmm/internal/atomicfile"
	"gururmm/internal/fileerr"
	"gururmm/internal/help"
	"gururmm/internal/tty"
	"gururmm/internal/wrap"
	"gururmm/operator"
	"gururmm/release"
	"gururmm/wire"
)

// maxPassword bounds a password in bytes.
const maxPassword = 1 << 10

func keygenCommand(f *operatorFlags) *cobra.Command {
	var out, passwordFile string
	var bare bool
	cmd := &cobra.Command{
		Use:   "keygen --out FILE",
		Short: "Make a release key pair, for who has no minisign; needs no server",
		Long: "Make a release key pair: FILE is the private key, which signs, FILE.pub the public\n" +
			"one, which the server and the endpoints are told. The private key belongs on the\n" +
			"machine that builds releases, with a copy in a safe place: whoever holds it can\n" +
			"have any program run on each endpoint, and without it there are no updates. A\n" +
			"password costs a second and a gigabyte of memory each time, by minisign's choice.",
		Example: "  gururmm update keygen --out release.key",
		Args:    help.Words(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if out == "" {
				return errors.New("where to? give --out FILE")
			}
			for _, path := range []string{out, out + ".pub"} {
				if _, err := os.Lstat(path); err == nil {
					return fmt.Errorf("%s is there already; a release key is never overwritten", path)
				}
			}
			password := ""
			if !bare {
				var err error
				if password, err = newPassword(cmd, passwordFile); err != nil {
					return err
				}
			}
			pub, priv, err := release.NewKey()
			if err != nil {
				return err
			}
			raw, err := priv.Format(password)
			if err != nil {
				return err
			}
			if err := atomicfile.Write(out, raw, 0o600); err != nil {
				return err
			}
			text := "untrusted comment: minisign public key " + pub.ID() + "\n" + pub.String() + "\n"
			if err := atomicfile.Write(out+".pub", []byte(text), 0o644); err != nil {
				return err
			}
			if f.json {
				return printJSON(cmd.OutOrStdout(), map[string]string{"public_key": pub.String(), "id": pub.ID(), "private_file": out, "public_file": out + ".pub"})
			}
			fmt.Fprintln(cmd.OutOrStdout(), wrap.Behind("", fmt.Sprintf("Release key %s. Its private half is in %s: keep it, and keep it from others. The public one:", pub.ID(), out)))
			fmt.Fprintf(cmd.OutOrStdout(), "\n  %s\n\nTell the server, then enroll endpoints:\n\n  gururmm serve --release-key %s\n\n", pub, pub)
			return nil
		},
	}
	cmd.Flags().StringVar(&out, "out", "", "file of the private key (mode 0600); the public one is FILE.pub")
	cmd.Flags().StringVar(&passwordFile, "password-file", "", "file with the password (default: asked for)")
	cmd.Flags().BoolVar(&bare, "no-password", false, "don't encrypt the private key")
	help.Apart(cmd, "password-file", "no-password")
	return cmd
}

func signCommand(f *operatorFlags) *cobra.Command {
	var keyFile, passwordFile, version, platform string
	var anyVersion bool
	cmd := &cobra.Command{
		Use:   "sign --key FILE --version V FILE…",
		Short: "Sign programs with a release key; needs no server",
		Long: "Sign programs with a release key. FILE.minisig is written beside each FILE; it names\n" +
			"the version, and the platform that the program's own headers tell. A FILE that ends in\n" +
			".minisig is passed over, so that `bin/agents/v1.2.3/*` can be signed again.",
		Example: "  gururmm update sign --key release.key --version v1.2.3 \\\n    gururmm-agent-linux-amd64 gururmm-agent-windows-amd64.exe",
		Args:    help.Words(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if keyFile == "" {
				return errors.New("signed by what? give --key FILE")
			}
			if err := release.CheckVersion(version); err != nil {
				return fmt.Errorf("--version: %w", err)
			}
			programs, err := programsOf(args)
			if err != nil {
				return err
			}
			key, err := privateKey(cmd, keyFile, passwordFile)
			if err != nil {
				return fmt.Errorf("%s: %w", keyFile, err)
			}
			var done []wire.Build
			for _, path := range programs {
				b, err := signFile(key, path, version, platform, anyVersion)
				if err != nil {
					return fmt.Errorf("%s: %w", path, err)
				}
				if done = append(done, b); !f.json {
					fmt.Fprintln(cmd.OutOrStdout(), wrap.Behind("", fmt.Sprintf("Signed %s for %s/%s: %s", b.Version, b.OS, b.Arch, path+signatureSuffix)))
				}
			}
			if f.json {
				return printJSON(cmd.OutOrStdout(), operator.List[wire.Build]{Items: done})
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&keyFile, "key", "", "file of the private release key, of keygen or minisign")
	cmd.Flags().StringVar(&passwordFile, "password-file", "", "file with its password (default: asked for)")
	cmd.Flags().StringVar(&version, "version", "", "version of the programs: v1.2.3")
	cmd.Flags().StringVar(&platform, "platform", "", "OS/ARCH, where a program's headers fit several")
	cmd.Flags().BoolVar(&anyVersion, "any-version", false, "sign also a program in which that version is not to be found")
	return cmd
}

func signFile(key release.PrivateKey, path, version, platform string, anyVersion bool) (wire.Build, error) {
	file, err := os.Open(path)
	if err != nil {
		return wire.Build{}, fileerr.Why(err)
	}
	defer file.Close()
	found, err := release.Inspect(file)
	if err != nil {
		return wire.Build{}, err
	}
	names := make([]string, len(found))
	for i, p := range found {
		names[i] = p.String()
	}
	if platform == "" {
		if len(found) != 1 {
			return wire.Build{}, fmt.Errorf("it is a program for %s: say which by --platform", strings.Join(names, " and "))
		}
		platform = names[0]
	}
	if !anyVersion {
		held, err := release.HoldsVersion(file, version)
		if err != nil {
			return wire.Build{}, err
		}
		if !held { // each endpoint would try it, find that it says another, and go back
			return wire.Build{}, fmt.Errorf("it was not built as %s: make agents VERSION=%s (--any-version signs it all the same)", version, version)
		}
	}
	os, arch, _ := strings.Cut(platform, "/")
	b, err := release.Sign(key, file, version, os, arch)
	if err != nil {
		return b, err
	}
	if err := release.CheckPlatform(file, b); err != nil {
		return b, err
	}
	return b, atomicfile.Write(path+signatureSuffix, []byte(b.Signature), 0o644)
}

func privateKey(cmd *cobra.Command, path, passwordFile string) (release.PrivateKey, error) {
	raw, err := readBounded(path)
	if err != nil {
		return release.PrivateKey{}, err
	}
	key, err := release.ParsePrivateKey(raw, "")
	if !errors.Is(err, release.ErrPassword) {
		return key, err
	}
	password, err := password(cmd, passwordFile, "Password of the release key (not shown): ")
	if err != nil {
		return key, err
	}
	return release.ParsePrivateKey(raw, password)
}

// newPassword asks a person twice: a mistyped one would lose the key.
func newPassword(cmd *cobra.Command, file string) (string, error) {
	first, err := password(cmd, file, "New password of the release key (not shown): ")
	if err != nil || file != "" {
		return first, err
	}
	again, err := password(cmd, file, "Once more: ")
	if err == nil && again != first {
		err = errors.New("the two passwords differ; nothing was made")
	}
	return first, err
}

// password takes a password from a file, or asks a person at a terminal.
func password(cmd *cobra.Command, file, prompt string) (string, error) {
	var text string
	if file != "" {
		f, err := os.Open(file)
		if err != nil {
			return "", fmt.Errorf("password file: %w", err)
		}
		defer f.Close()
		raw, err := io.ReadAll(io.LimitReader(f, maxPassword))
		if err != nil {
			return "", fmt.Errorf("password file: %w", err)
		}
		text = string(raw)
	} else {
		terminal, ok := cmd.InOrStdin().(*os.File)
		if !ok || !tty.Is(terminal) {
			return "", errors.New("no terminal to ask for the password: give --password-file FILE (for a new key, or --no-password)")
		}
		var err error
		if text, err = askHidden(terminal, cmd.ErrOrStderr(), prompt, maxPassword); err != nil {
			return "", err
		}
	}
	if text = strings.TrimRight(text, "\r\n"); text == "" {
		return "", errors.New("the password is empty")
	}
	return text, nil
}

// askHidden reads one line of a terminal, and does not show what is typed.
func askHidden(terminal *os.File, w io.Writer, prompt string, limit int64) (string, error) {
	// From here on to restore, an interrupt must not leave the person with a dumb terminal.
	interrupts := make(chan os.Signal, 1)
	signal.Notify(interrupts, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(interrupts)
	restore, err := tty.HideInput(terminal)
	if err != nil {
		return "", err
	}
	defer restore()
	type read struct {
		line string
		err  error
	}
	got := make(chan read, 1)
	fmt.Fprint(w, prompt)
	go func() { // ends with the process: a read of a terminal can't be called off
		line, err := bufio.NewReader(io.LimitReader(terminal, limit)).ReadString('\n')
		if errors.Is(err, io.EOF) {
			err = nil
		}
		got <- read{line, err}
	}()
	select {
	case r := <-got:
		return r.line, r.err
	case <-interrupts:
		fmt.Fprintln(w)
		return "", errors.New("given up")
	}
}
