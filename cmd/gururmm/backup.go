package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"gururmm/internal/atomicfile"
	"gururmm/internal/help"
	"gururmm/internal/tty"
	"gururmm/internal/wrap"
	"gururmm/server"
)

// backupCommand works on the server's own machine, beside the server.
func backupCommand() *cobra.Command {
	var file, verify string
	var without bool
	cmd := &cobra.Command{
		Use:   "backup",
		Short: "Back up the server's state while it runs, or verify a backup",
		Long: "Write what the server must not forget to one archive: database, keys, certificates,\n" +
			"published programs, endpoints' bundles, and the files that its configuration names\n" +
			"(--config, or what the server is given otherwise). The server may be running.\n\n" +
			"The archive holds private keys: whoever has it commands the fleet. It is readable\n" +
			"for this account alone; encrypt what leaves this machine.\n\n" +
			"With a PostgreSQL the database is not in it: dump that first, by the line that is\n" +
			"printed.",
		Example: "  gururmm backup -o /var/backups/gururmm-monday.tar.gz\n  gururmm backup -o - | age -r age1… > b.age\n  gururmm backup --verify /var/backups/gururmm-monday.tar.gz",
		Args:    help.Words(0, 0),
		RunE: local(func(cmd *cobra.Command, _ []string, cfg serveConfig, _ *slog.Logger) error {
			ctx, stop := interruptible(cmd)
			defer stop()
			if verify != "" {
				return verifyBackup(ctx, cmd, verify)
			}
			var m server.BackupManifest
			var err error
			o := server.BackupOptions{WithoutBundles: without, Config: cfg.files()}
			switch file {
			case "":
				return errors.New("where to? Name a file: -o FILE, or - for standard output")
			case "-":
				m, err = streamBackup(ctx, cmd, cfg, o)
			default:
				m, err = writeBackup(ctx, cfg, o, file)
			}
			if err != nil {
				return err
			}
			words := cmd.ErrOrStderr() // standard output may be the archive
			fmt.Fprintln(words, wrap.Behind("", contents(m)+" It holds private keys: whoever has it commands the fleet."))
			tellDump(words, m)
			return nil
		}),
	}
	cmd.Flags().StringVarP(&file, "output", "o", "", "file to write it to, - for standard output")
	cmd.Flags().StringVar(&verify, "verify", "", "read this backup, - for standard input, and say whether it is whole")
	cmd.Flags().BoolVar(&without, "without-bundles", false, "leave endpoints' bundles out")
	help.Apart(cmd, "output", "verify")
	addLocalFlags(cmd, "state_dir", "database_url", "database_url_file", "shared_dir")
	return cmd
}

// contents says in a sentence what a backup has.
func contents(m server.BackupManifest) string {
	var bytes int64
	for _, f := range m.Files {
		bytes += f.Size
	}
	without := ""
	if m.WithoutBundles {
		without = ", without bundles"
	}
	return fmt.Sprintf("Backup of server %s as of %s: %s, %s%s.", m.ServerID, m.MadeAt.Local().Format(time.DateTime), plural(len(m.Files), "file"), sizeOf(bytes), without)
}

// tellDump says what completes a backup whose database is elsewhere.
func tellDump(w io.Writer, m server.BackupManifest) {
	if m.Database != "" {
		fmt.Fprintf(w, "\n%s\n\n  (umask 077; pg_dump --format=custom --file=gururmm.dump %s)\n",
			wrap.Behind("", "The database is not in it. A dump completes it, made before it (a password: by PGPASSFILE):"), quote(m.Database))
	}
}

// writeBackup writes a backup to path: whole and synced, or not at all, and never over a file
// that is there.
func writeBackup(ctx context.Context, cfg serveConfig, o server.BackupOptions, path string) (m server.BackupManifest, err error) {
	if _, err := os.Lstat(path); err == nil {
		return m, there(path)
	}
	// A directory of its own, of which nothing is left: it also takes the copy of the database.
	if o.Scratch, err = os.MkdirTemp(filepath.Dir(path), ".gururmm-backup-"); err != nil {
		return m, fmt.Errorf("%w: no file can be made there; choose another place with --output", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(o.Scratch)) }()
	part, err := os.OpenFile(filepath.Join(o.Scratch, "archive"), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return m, err
	}
	if m, err = server.Backup(ctx, cfg.server, part, o); err == nil {
		err = part.Sync()
	}
	if err = errors.Join(err, part.Close()); err != nil {
		return m, err
	}
	if err := give(part.Name(), path); err != nil {
		return m, err
	}
	return m, atomicfile.SyncDir(filepath.Dir(path))
}

// streamBackup writes one to standard output. Its reader learns from the exit code, and from
// the archive itself, whether it is whole.
func streamBackup(ctx context.Context, cmd *cobra.Command, cfg serveConfig, o server.BackupOptions) (m server.BackupManifest, err error) {
	out := cmd.OutOrStdout()
	if f, ok := out.(*os.File); ok && tty.Is(f) {
		return m, errors.New("a backup is no text for a terminal: send it to a file or a pipe, or give --output FILE")
	}
	if o.Scratch, err = os.MkdirTemp(cfg.server.StateDir, ".gururmm-backup-"); err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(o.Scratch)) }()
	return server.Backup(ctx, cfg.server, out, o)
}

// archive opens a backup to be read; "-" is standard input.
func archive(cmd *cobra.Command, path string) (io.ReadCloser, error) {
	if path == "-" {
		return io.NopCloser(cmd.InOrStdin()), nil
	}
	return os.Open(path)
}

func verifyBackup(ctx context.Context, cmd *cobra.Command, path string) error {
	r, err := archive(cmd, path)
	if err != nil {
		return err
	}
	defer r.Close()
	m, err := server.VerifyBackup(ctx, r)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	fmt.Fprintln(cmd.OutOrStdout(), wrap.Behind("", contents(m)+" All of it is as it was written."))
	tellDump(cmd.OutOrStdout(), m)
	return nil
}

func restoreCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "restore FILE",
		Short: "Restore a backup to an empty state directory",
		Long: "Restore a backup (- is standard input) to a state directory that is empty or not\n" +
			"there. Nothing is put in its place before all of the backup was read and found\n" +
			"right.\n\n" +
			"The restored server is the one that was backed up: that one must not run any more.\n" +
			"What has come since the backup is unknown to it: endpoints enrolled since enroll\n" +
			"again, operator tokens revoked since work again.",
		Example: "  gururmm restore gururmm-monday.tar.gz --state-dir /var/lib/gururmm\n  age -d -i key.txt b.age | gururmm restore -",
		Args:    help.Words(1, 1),
		RunE: local(func(cmd *cobra.Command, args []string, cfg serveConfig, _ *slog.Logger) error {
			ctx, stop := interruptible(cmd)
			defer stop()
			dir := cfg.server.StateDir
			if dir == "" {
				return errors.New("state_dir is not set")
			}
			r, err := archive(cmd, args[0])
			if err != nil {
				return err
			}
			defer r.Close()
			m, err := server.Restore(ctx, r, dir)
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			fmt.Fprintln(out, wrap.Behind("", fmt.Sprintf("%s It is in %s.", contents(m), dir)))
			for _, f := range m.Files {
				if f.From != "" {
					fmt.Fprintln(out, wrap.Behind("", fmt.Sprintf("%s was %s: put it there yourself.", filepath.Join(dir, server.RestoredConfig(f.Name)), f.From)))
				}
			}
			if m.Database != "" {
				fmt.Fprintln(out, wrap.Behind("", "The database is not in it: restore its dump to an empty PostgreSQL database by pg_restore --no-owner, and name that by --database-url-file."))
			}
			fmt.Fprintln(out, wrap.Behind("", fmt.Sprintf("Start the server; the one on %s must not run any more.", cmp.Or(m.Host, "the other machine"))))
			return nil
		}),
	}
	addLocalFlags(cmd, "state_dir")
	return cmd
}
