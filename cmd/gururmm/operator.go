package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gururmm/internal/atomicfile"
	"gururmm/internal/fileerr"
	"gururmm/internal/help"
	"gururmm/internal/moment"
	"gururmm/internal/tty"
	"gururmm/internal/wrap"
	"gururmm/operator"
)

// connection is how to reach a server, saved by login in client.json (0600).
type connection struct {
	URL   string `json:"url"`
	Token string `json:"token"`
	Pin   string `json:"pin,omitempty"`
	CA    string `json:"ca,omitempty"`
}

// operatorFlags are shared by all operator commands.
type operatorFlags struct {
	server, pin, ca string
	json            bool
	typed           []string // the whole command line
}

// checkDuration refuses what milliseconds can't say: zero would quietly mean the default.
func checkDuration(flag string, d time.Duration) error {
	if d < time.Millisecond {
		return fmt.Errorf("--%s %v: want at least 1ms", flag, d)
	}
	return nil
}

// checkCount refuses a number below one, for the same reason.
func checkCount[N int | int64](flag string, n N) error {
	if n < 1 {
		return fmt.Errorf("--%s %d: want at least 1", flag, n)
	}
	return nil
}

// addOperator adds the commands that talk to a server as an operator.
func addOperator(root *cobra.Command, typed []string) {
	f := &operatorFlags{typed: typed}
	for _, c := range []*cobra.Command{
		loginCommand(f), agentsCommand(f), execCommand(f), jobsCommand(f), commandsCommand(f), cancelCommand(f),
		traceCommand(f), timelineCommand(f), dossierCommand(f), beaconsCommand(f), eventsCommand(f), enrollTokenCommand(f), directCommand(f), directivesCommand(f), bundlesCommand(f), doctorCommand(f), probeCommand(f), diagnoseCommand(f), updateCommand(f),
	} {
		f.addJSON(c)
		if c.Name() != updateName { // not all of that talks to a server
			f.addServer(c)
		}
		root.AddCommand(c)
	}
	f.offer(root)
}

func (f *operatorFlags) addJSON(c *cobra.Command) {
	c.PersistentFlags().BoolVar(&f.json, "json", false, "print JSON, errors too")
}

func (f *operatorFlags) addServer(c *cobra.Command) {
	c.PersistentFlags().StringVar(&f.server, "server", "", "server URL (default $GURURMM_URL, else as logged in)")
	c.PersistentFlags().StringVar(&f.pin, "pin", "", "the server's key, sha256/… (default $GURURMM_PIN)")
	c.PersistentFlags().StringVar(&f.ca, "ca", "", "PEM file of the server's CA (default $GURURMM_CA)")
}

func connectionFile() (string, error) {
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("no place to keep the login: %w", err)
	}
	return filepath.Join(dir, "gururmm", "client.json"), nil
}

// connection: flags before environment before the saved login. A token never
// comes by flag: it would show in the process list.
func (f *operatorFlags) connection() (connection, error) {
	var c connection
	if path, err := connectionFile(); err == nil {
		raw, err := readPrivate(path)
		if err == nil {
			if err := json.Unmarshal(raw, &c); err != nil {
				return c, fmt.Errorf("%s is damaged (%w): log in again", path, err)
			}
		} else if !errors.Is(err, os.ErrNotExist) {
			return c, err
		}
	}
	saved := c.URL
	set := func(to *string, env, flag string) {
		if v := os.Getenv(env); v != "" {
			*to = v
		}
		if flag != "" {
			*to = flag
		}
	}
	set(&c.URL, "GURURMM_URL", f.server)
	if c.URL != saved { // another server: what was saved of the first says nothing of it
		c.Token, c.Pin, c.CA = "", "", ""
	}
	set(&c.Pin, "GURURMM_PIN", f.pin)
	set(&c.CA, "GURURMM_CA", f.ca)
	if f.ca != "" && f.pin == "" && os.Getenv("GURURMM_PIN") == "" {
		c.Pin = "" // a CA named now is meant to decide, not the pin of the login
	}
	set(&c.Token, "GURURMM_TOKEN", "")
	return c, nil
}

// readPrivate reads a file that holds a token, unless others can read it, too.
func readPrivate(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	// On Windows the mode says nothing: the profile's ACL guards the file.
	if runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s holds an operator token, and others may open it (mode %04o); make it yours alone: chmod 600 %s",
			path, info.Mode().Perm(), quote(path))
	}
	return io.ReadAll(file)
}

func (f *operatorFlags) client() (*operator.Client, error) {
	c, err := f.connection()
	if err != nil {
		return nil, err
	}
	if c.URL != "" && c.Token == "" {
		return nil, fmt.Errorf("the operator token for %s is missing: run `gururmm login --server %s`, or set GURURMM_TOKEN", c.URL, c.URL)
	}
	if c.URL == "" {
		return nil, errors.New("no server is known here: run `gururmm login --server URL`, or set GURURMM_URL and GURURMM_TOKEN")
	}
	return c.client()
}

func (c connection) client() (*operator.Client, error) {
	tlsConf, err := operator.TLSConfig(c.CA, c.Pin)
	if err != nil {
		return nil, err
	}
	return operator.New(c.URL, c.Token, tlsConf)
}

func loginCommand(f *operatorFlags) *cobra.Command {
	var tokenFile string
	cmd := &cobra.Command{
		Use:   "login --server URL [--pin sha256/…|--ca FILE] [--token-file FILE]",
		Short: "Remember a server and its operator token for the other commands",
		Long: "Remember a server and its operator token for the other commands, in a file that\n" +
			"only you can read. The token is taken from --token-file, $GURURMM_TOKEN, or\n" +
			"standard input; never from the command line, where others could see it.",
		Example: "  gururmm login --server https://rmm.example:8443 --pin sha256/…\n" +
			"  gururmm login --server https://rmm.example --ca ca.pem --token-file token.txt",
		Args: help.Words(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := f.connection()
			if err != nil {
				return err
			}
			if c.URL == "" {
				return errors.New("which server? give --server URL")
			}
			if c.CA != "" {
				if c.CA, err = filepath.Abs(c.CA); err != nil {
					return err
				}
			}
			if c.Token, err = readToken(cmd, tokenFile); err != nil {
				return err
			}
			client, err := c.client()
			if err != nil {
				return err
			}
			agents, err := client.Agents(cmd.Context())
			if err != nil {
				return fmt.Errorf("not logged in: %w", explain(err))
			}
			path, err := connectionFile()
			if err != nil {
				return err
			}
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				return err
			}
			raw, err := json.MarshalIndent(c, "", "  ")
			if err != nil {
				return err
			}
			if err := atomicfile.Write(path, append(raw, '\n'), 0o600); err != nil {
				return err
			}
			if f.json {
				return printJSON(cmd.OutOrStdout(), map[string]any{"server": c.URL, "agents": len(agents), "file": path})
			}
			fmt.Fprintf(cmd.OutOrStdout(), "Logged in to %s (%s); remembered in %s.\n", c.URL, plural(len(agents), "agent"), path)
			return nil
		},
	}
	cmd.Flags().StringVar(&tokenFile, "token-file", "", "file with the operator token, - for standard input")
	return cmd
}

// maxToken bounds an operator token in bytes.
const maxToken = 4 << 10

// readToken takes the token from the file, the environment or standard input.
func readToken(cmd *cobra.Command, file string) (string, error) {
	var token string
	switch {
	case file != "" && file != "-":
		f, err := os.Open(file)
		if err != nil {
			return "", fmt.Errorf("--token-file: %w", fileerr.Why(err))
		}
		defer f.Close()
		raw, err := io.ReadAll(io.LimitReader(f, maxToken))
		if err != nil {
			return "", fmt.Errorf("--token-file: %w", fileerr.Why(err))
		}
		token = string(raw)
	case file == "" && os.Getenv("GURURMM_TOKEN") != "":
		token = os.Getenv("GURURMM_TOKEN")
	default:
		var err error
		if token, err = askToken(cmd); err != nil {
			return "", fmt.Errorf("operator token: %w", err)
		}
	}
	if token = strings.TrimSpace(token); token == "" {
		return "", errors.New("the operator token is empty")
	}
	return token, nil
}

// askToken reads one line of standard input; a person is asked, and what they
// type is not shown.
func askToken(cmd *cobra.Command) (string, error) {
	if terminal, ok := cmd.InOrStdin().(*os.File); ok && tty.Is(terminal) {
		return askHidden(terminal, cmd.ErrOrStderr(), "Operator token (not shown): ", maxToken)
	}
	line, err := bufio.NewReader(io.LimitReader(cmd.InOrStdin(), maxToken)).ReadString('\n')
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return line, err
}

// printJSON writes v for programs. JSON may end on a terminal, too: what is not plain
// text there is escaped (RFC 8259 §7), so that no value is changed by that.
func printJSON(w io.Writer, v any) error {
	var raw bytes.Buffer
	enc := json.NewEncoder(&raw)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return err
	}
	var out strings.Builder
	for _, r := range raw.String() {
		if c := string(r); wrap.Plain(c) == "" {
			fmt.Fprintf(&out, `\u%04x`, r) // what is not plain is in the basic plane
		} else {
			out.WriteString(c)
		}
	}
	_, err := io.WriteString(w, out.String())
	return err
}

// ago tells an age as people do.
func ago(t *time.Time) string {
	if t == nil || t.IsZero() {
		return "never"
	}
	return span(time.Since(*t)) + " ago"
}

func span(d time.Duration) string { return moment.Span(d) }

// oneLine makes s fit a table's cell.
func oneLine(s string, width int) string {
	s = strings.Join(strings.Fields(wrap.Plain(s)), " ")
	if r := []rune(s); len(r) > width {
		return string(r[:width-1]) + "…"
	}
	return s
}
