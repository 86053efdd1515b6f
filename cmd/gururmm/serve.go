package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"gururmm/internal/atomicfile"
	"gururmm/internal/help"
	"gururmm/internal/logsink"
	"gururmm/internal/moment"
	"gururmm/internal/tty"
	"gururmm/operator"
	"gururmm/server"
)

const serveName = "serve"

// addServe adds the command that runs the server.
func addServe(root *cobra.Command) {
	cmd := &cobra.Command{
		Use:   serveName,
		Short: "Run the server",
		Long: "Run the server. On its first start it makes its state directory, keys, database and\n" +
			"a self-signed certificate, and prints a first operator token and a line that\n" +
			"enrolls an endpoint.\n\n" +
			"Each setting is a flag, a GURURMM_* variable, or a key of the YAML file, in this\n" +
			"order of precedence.",
		Example: "  gururmm serve\n  gururmm serve --public-url https://rmm.example:8443 \\\n    --oob-url https://door.example:8444 --release-key release.key.pub\n  gururmm serve --config /etc/gururmm.yaml",
		Args:    help.Words(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkVariables(os.Environ()); err != nil {
				return err
			}
			cfg, err := loadConfig(cmd.Flags(), os.LookupEnv)
			if err != nil {
				return err
			}
			// Whoever asks makes the server log: who reads the log must not stop it, nor who went away.
			sink := logsink.New(screen(cmd.ErrOrStderr()))
			defer sink.Close()
			signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
			log, err := newLogger(sink, cfg.logLevel)
			if err != nil {
				return err
			}
			srv, err := server.New(cfg.server, log)
			if err != nil {
				return err
			}
			greet(cmd.OutOrStdout(), srv.Info())
			if cfg.readyFile != "" {
				if err := writeReady(cfg.readyFile, srv.Info()); err != nil {
					srv.Close()
					return err
				}
			}
			ctx, stop := interruptible(cmd)
			defer stop()
			return srv.Run(ctx)
		},
	}
	addFlags(cmd.Flags())
	root.AddCommand(cmd, operatorTokenCommand(), migrateCommand(), backupCommand(), restoreCommand())
}

// interruptible is the command's context, ended in order by Ctrl-C and SIGTERM.
func interruptible(cmd *cobra.Command) (ctx context.Context, stop context.CancelFunc) {
	return signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
}

// local gives the server's settings and a log to what works on its state directory.
func local(do func(cmd *cobra.Command, args []string, cfg serveConfig, log *slog.Logger) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		cfg, err := loadConfig(cmd.Flags(), os.LookupEnv)
		if err != nil {
			return err
		}
		log, err := newLogger(cmd.ErrOrStderr(), cfg.logLevel)
		if err != nil {
			return err
		}
		return do(cmd, args, cfg, log)
	}
}

// addLocalFlags declares each setting of the server, and shows those that keys name.
func addLocalFlags(cmd *cobra.Command, keys ...string) {
	addFlags(cmd.Flags())
	for _, s := range settings {
		cmd.Flags().Lookup(s.flag()).Hidden = !slices.Contains(keys, s.key)
	}
}

// tokenSeen is an operator token in JSON.
type tokenSeen struct {
	Name      string     `json:"name"`
	CreatedAt time.Time  `json:"created_at"`
	LastUsed  *time.Time `json:"last_used,omitempty"`
}

// operatorTokenCommand works on the server's own machine: whoever may read the
// state directory holds the server anyway.
func operatorTokenCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "operator-token NAME",
		Short: "Make, list or revoke operator tokens, on the server's machine",
		Long: "Make another operator token in the server's database, for another operator\n" +
			"or because the first one was lost. It is printed once; the server may be running.",
		Example: "  gururmm operator-token alice\n  gururmm operator-token list\n  gururmm operator-token revoke alice",
		Args:    help.Words(1, 1),
		RunE: local(func(cmd *cobra.Command, args []string, cfg serveConfig, log *slog.Logger) error {
			token, err := server.NewOperatorToken(cmd.Context(), cfg.server, args[0], log)
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), token)
			return nil
		}),
	}
	var asJSON bool
	list := &cobra.Command{
		Use:     "list",
		Short:   "List the operator tokens by name",
		Example: "  gururmm operator-token list",
		Args:    help.Words(0, 0),
		RunE: local(func(cmd *cobra.Command, _ []string, cfg serveConfig, log *slog.Logger) error {
			all, err := server.OperatorTokens(cmd.Context(), cfg.server, log)
			if err != nil {
				return err
			}
			if asJSON {
				items := make([]tokenSeen, len(all))
				for i, t := range all {
					items[i] = tokenSeen{Name: t.Name, CreatedAt: t.CreatedAt, LastUsed: t.LastUsed}
				}
				return printJSON(cmd.OutOrStdout(), operator.List[tokenSeen]{Items: items})
			}
			rows := [][]string{{"NAME", "MADE", "LAST USED"}}
			for _, t := range all {
				rows = append(rows, []string{oneLine(t.Name, 40), moment.Local(t.CreatedAt), ago(t.LastUsed)})
			}
			for _, line := range columns(rows) {
				fmt.Fprintln(cmd.OutOrStdout(), line)
			}
			return nil
		}),
	}
	list.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	revoke := &cobra.Command{
		Use:     "revoke NAME",
		Short:   "Make an operator token useless, at once",
		Example: "  gururmm operator-token revoke alice",
		Args:    help.Words(1, 1),
		RunE: local(func(cmd *cobra.Command, args []string, cfg serveConfig, log *slog.Logger) error {
			if err := server.RevokeOperatorToken(cmd.Context(), cfg.server, args[0], log); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "The operator token %q is revoked.\n", args[0])
			return nil
		}),
	}
	for _, c := range []*cobra.Command{cmd, list, revoke} {
		addLocalFlags(c, "state_dir", "database_url", "database_url_file")
	}
	cmd.AddCommand(list, revoke)
	return cmd
}

// newLogger writes structured events: for people on a terminal, else one JSON object a line.
func newLogger(w io.Writer, level string) (*slog.Logger, error) {
	l, err := zerolog.ParseLevel(level)
	if err != nil || l == zerolog.NoLevel {
		return nil, fmt.Errorf("log_level: %q is none of debug, info, warn, error", level)
	}
	zerolog.TimeFieldFormat = time.RFC3339Nano
	return slog.New(zerolog.NewSlogHandler(zerolog.New(screen(w)).Level(l).With().Timestamp().Logger())), nil
}

// screen shows JSON lines for people where w is a terminal.
func screen(w io.Writer) io.Writer {
	if f, ok := w.(*os.File); ok && tty.Is(f) {
		return zerolog.ConsoleWriter{Out: f, TimeFormat: time.TimeOnly, NoColor: !tty.Colorful(f)}
	}
	return w
}

// greet prints where the server is, and on its first start how to begin.
func greet(w io.Writer, info server.Info) {
	var b strings.Builder
	fmt.Fprintf(&b, "server:      %s\nsecond door: %s\n", info.URL, info.OOBURL)
	for _, url := range info.OOBURLs[min(1, len(info.OOBURLs)):] {
		fmt.Fprintf(&b, "             %s\n", url)
	}
	if info.AdminURL != "" {
		fmt.Fprintf(&b, "admin:       %s\n", info.AdminURL)
	}
	pin := ""
	if info.Pin != "" {
		fmt.Fprintf(&b, "key pin:     %s\n", info.Pin)
		pin = " --pin " + info.Pin
	}
	if info.OperatorToken != "" {
		fmt.Fprintf(&b, `
First operator token, shown this once (the server keeps only its hash):

  %s

Log in with it (the command asks for the token; no process list shows it):

  gururmm login --server %s%s
`, info.OperatorToken, info.URL, pin)
	}
	if info.EnrollToken != "" {
		fmt.Fprintf(&b, `
Enroll an endpoint (the token serves once, within an hour; for more of them:
gururmm enroll-token create):

  gururmm-agent enroll --server %s --token %s%s
`, info.URL, info.EnrollToken, pin)
	}
	fmt.Fprint(w, b.String())
}

// writeReady tells scripts what greet tells people; it may hold tokens.
func writeReady(path string, info server.Info) error {
	raw, err := json.MarshalIndent(info, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.Write(path, append(raw, '\n'), 0o600)
}
