package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"gururmm/internal/help"
	"gururmm/internal/moment"
	"gururmm/internal/tty"
	"gururmm/internal/wrap"
	"gururmm/operator"
)

func bundlesCommand(f *operatorFlags) *cobra.Command {
	var download, remove, file string
	cmd := &cobra.Command{
		Use:   "bundles AGENT [--download ID [-o FILE] | --delete ID]",
		Short: "List, fetch and remove the support bundles of an endpoint",
		Long: "List, fetch and remove the support bundles of an endpoint. To have one made:\n\n" +
			"  gururmm direct AGENT send_bundle\n\n" +
			"A bundle that is fetched is checked against the hash that the endpoint announced,\n" +
			"and never takes the place of a file. Unpacked, sha256sum -c SHA256SUMS checks each\n" +
			"member of it.",
		Example: "  gururmm bundles web-17\n  gururmm bundles web-17 --download 01a20b84 -o web-17.tar.gz",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return fmt.Errorf("name one endpoint, and the bundle by a flag: gururmm bundles AGENT [--download ID | --delete ID]; got %q", args)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if file != "" && download == "" {
				return errors.New("--output is for --download ID")
			}
			client, err := f.client()
			if err != nil {
				return err
			}
			if remove != "" {
				if err := client.RemoveBundle(cmd.Context(), args[0], remove); err != nil {
					return explain(err)
				}
				return f.done(cmd.OutOrStdout(), map[string]any{"removed": remove}, fmt.Sprintf("Bundle %s is removed.", remove))
			}
			items, err := client.Bundles(cmd.Context(), args[0])
			if err != nil {
				return explain(err)
			}
			if download != "" {
				b, err := pickBundle(items, download)
				if err != nil {
					return err
				}
				if file == "" {
					file = b.ID + ".tar.gz"
				}
				if file == "-" {
					return explain(f.streamBundle(cmd, client, b))
				}
				if err := fetchBundle(cmd, client, b, file); err != nil {
					return explain(err)
				}
				return f.done(cmd.OutOrStdout(), map[string]any{"file": file, "bundle": b},
					fmt.Sprintf("Fetched bundle %s (%s) to %s; its hash is right.", b.ID, sizeOf(b.Size), file))
			}
			if f.json {
				return printJSON(cmd.OutOrStdout(), operator.List[operator.Bundle]{Items: items})
			}
			if len(items) == 0 {
				fmt.Fprintf(cmd.OutOrStdout(), "It has sent no bundle yet: gururmm direct %s send_bundle\n", quote(args[0]))
				return nil
			}
			return listBundles(cmd.OutOrStdout(), items)
		},
	}
	cmd.Flags().StringVar(&download, "download", "", "fetch the bundle of this id")
	cmd.Flags().StringVarP(&file, "output", "o", "", "file to write it to, - for standard output (default ID.tar.gz)")
	cmd.Flags().StringVar(&remove, "delete", "", "remove the bundle of this id from the server")
	help.Apart(cmd, "download", "delete")
	return cmd
}

// done prints what was done, as JSON if that was asked for.
func (f *operatorFlags) done(w io.Writer, v any, sentence string) error {
	if f.json {
		return printJSON(w, v)
	}
	fmt.Fprintln(w, wrap.Behind("", sentence))
	return nil
}

// listBundles gives each a line with how much is there, and below it its id and reason.
func listBundles(w io.Writer, items []operator.Bundle) error {
	rows := [][]string{{"MADE", "SIZE", "STATE"}}
	for _, b := range items {
		made, state := "-", "complete"
		if b.MadeAt != nil {
			made = moment.Local(*b.MadeAt)
		}
		if !b.Complete {
			state = fmt.Sprintf("%d %% have come", 100*b.Held/max(b.Size, 1))
		}
		rows = append(rows, []string{made, sizeOf(b.Size), state})
	}
	lines := columns(rows)
	fmt.Fprintln(w, lines[0])
	for i, b := range items {
		fmt.Fprintf(w, "%s\n  %s\n", lines[i+1], b.ID)
		if b.Reason != "" {
			fmt.Fprintln(w, wrap.Behind("  reason: ", wrap.Plain(b.Reason)))
		}
	}
	return nil
}

// sizeOf tells a size in bytes, in the units in which bounds are given and the endpoint's
// status counts.
func sizeOf(n int64) string {
	switch {
	case n < 10_000:
		return fmt.Sprintf("%d B", n)
	case n < 1<<20:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
}

// pickBundle gives the one that ref names, by id or an id's unique beginning.
func pickBundle(items []operator.Bundle, ref string) (operator.Bundle, error) {
	var found []operator.Bundle
	for _, b := range items {
		if b.ID == ref {
			return b, nil
		}
		if len(ref) >= 4 && strings.HasPrefix(b.ID, ref) {
			found = append(found, b)
		}
	}
	switch len(found) {
	case 0:
		return operator.Bundle{}, fmt.Errorf("this endpoint has no bundle %q at the server", ref)
	case 1:
		return found[0], nil
	}
	return operator.Bundle{}, fmt.Errorf("%q fits %d bundles; give the id, or more of it", ref, len(found))
}

// fetchBundle writes a bundle to path: whole and checked, or not at all, and never
// over a file that is there.
func fetchBundle(cmd *cobra.Command, client *operator.Client, b operator.Bundle, path string) (err error) {
	if _, err := os.Lstat(path); err == nil {
		return there(path)
	}
	part, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*.part") // 0600
	if err != nil {
		return fmt.Errorf("%w: no file can be made there; choose another place with --output", err)
	}
	defer os.Remove(part.Name())
	err = client.Bundle(cmd.Context(), b, part)
	if err == nil {
		err = part.Sync()
	}
	if err = errors.Join(err, part.Close()); errors.Is(err, syscall.ENOSPC) {
		return fmt.Errorf("%w; nothing of it is left: free space, or choose another place with --output", err)
	}
	if err != nil {
		return err
	}
	return give(part.Name(), path)
}

func there(path string) error {
	return fmt.Errorf("%s is there already; give another file: -o FILE", path)
}

// give gives a file the name path, but never over a file that is there.
func give(part, path string) error {
	err := os.Link(part, path) // fails where a file has come meanwhile, as a rename would not
	if errors.Is(err, fs.ErrExist) {
		return there(path)
	}
	if err != nil { // a file system without links
		if _, err := os.Lstat(path); err == nil {
			return there(path)
		}
		err = os.Rename(part, path)
	}
	return err
}

// streamBundle writes a bundle to standard output. It is checked only when all of it
// has gone out: the exit code tells.
func (f *operatorFlags) streamBundle(cmd *cobra.Command, client *operator.Client, b operator.Bundle) error {
	if f.json {
		return errors.New("--json says in words what --output - writes: leave one out")
	}
	out := cmd.OutOrStdout()
	if file, ok := out.(*os.File); ok && tty.Is(file) {
		return errors.New("a bundle is no text for a terminal: send it to a file or a pipe, or give --output FILE")
	}
	return client.Bundle(cmd.Context(), b, out)
}
