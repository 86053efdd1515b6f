package main

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/spf13/cobra"

	"gururmm/internal/help"
	"gururmm/internal/wrap"
	"gururmm/server"
)

// migrateCommand works on the server's own machine, while the server is stopped.
func migrateCommand() *cobra.Command {
	var to, file string
	cmd := &cobra.Command{
		Use:   "migrate",
		Short: "Move the database to a PostgreSQL, with the server stopped",
		Long: "Move all that the SQLite database in the state directory holds to an empty\n" +
			"PostgreSQL database. Both are read again before it counts, and compared by table.\n" +
			"Then the SQLite database is marked and not started any more; it stays as it was.\n" +
			"Stop the server first. If this is ended in the midst, repeat it.\n\n" +
			"A URL with a password comes from a private file, or from $GURURMM_DATABASE_URL.\n" +
			"Without --to and --to-url-file the database is meant that the server is set to.",
		Example: "  gururmm migrate --to-url-file /etc/gururmm/database.url\n  gururmm migrate --to postgres://gururmm@/gururmm?host=/run/postgresql",
		Args:    help.Words(0, 0),
		RunE: local(func(cmd *cobra.Command, _ []string, cfg serveConfig, log *slog.Logger) error {
			url, err := target(to, file, cfg)
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			ctx, stop := interruptible(cmd)
			defer stop()
			var altered int64
			all, err := server.Migrate(ctx, cfg.server, url, log, func(m server.Moved) {
				altered += m.Altered
				fmt.Fprintf(out, "%-16s %10d rows\n", m.Table, m.Rows)
			})
			if err != nil {
				return err
			}
			if altered > 0 {
				fmt.Fprintln(out, wrap.Behind("", fmt.Sprintf("%d texts had characters that PostgreSQL can't hold (NUL, broken UTF-8); a mark (U+FFFD) stands in their place.", altered)))
			}
			fmt.Fprintln(out, wrap.Behind("", fmt.Sprintf("All %d tables are over; both sides have the same rows and sums. Start the server with the PostgreSQL from now on (--database-url-file, --database-url). %s stays as it was and is marked as moved: remove it once a backup of the PostgreSQL is made.",
				len(all), filepath.Join(cfg.server.StateDir, "gururmm.db"))))
			return nil
		}),
	}
	cmd.Flags().StringVar(&to, "to", "", "the PostgreSQL, as postgres://user@host/name, without a password")
	cmd.Flags().StringVar(&file, "to-url-file", "", "private file with such a URL, with its password")
	help.Apart(cmd, "to", "to-url-file")
	addLocalFlags(cmd, "state_dir")
	return cmd
}

// target is the URL of the database to move to.
func target(to, file string, cfg serveConfig) (string, error) {
	switch {
	case to != "" && hasPassword(to):
		return "", passwordTyped("--to", "--to-url-file")
	case to != "":
		return to, nil
	case file != "":
		url, err := urlIn(file)
		if err != nil {
			return "", fmt.Errorf("--to-url-file: %w", err)
		}
		return url, nil
	case cfg.server.DatabaseURL != "":
		return cfg.server.DatabaseURL, nil
	}
	return "", errors.New("which PostgreSQL? Name it by --to-url-file FILE or --to URL")
}
