package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"gururmm/internal/fileerr"
	"gururmm/internal/help"
	"gururmm/internal/moment"
	"gururmm/internal/wrap"
	"gururmm/operator"
	"gururmm/release"
	"gururmm/wire"
)

const updateName = "update"

// updateCommand has all that brings new versions to endpoints.
func updateCommand(f *operatorFlags) *cobra.Command {
	cmd := &cobra.Command{
		Use:   updateName,
		Short: "Sign, publish and roll out new versions of the agent",
		Long: "Sign, publish and roll out new versions of the agent.\n\n" +
			"A program is trusted for its signature by a release key that the server does not\n" +
			"hold. keygen and sign work without a server, on the machine that builds releases;\n" +
			"minisign's own keys and signatures serve as well.",
	}
	cmd.AddCommand(keygenCommand(f), signCommand(f))
	for _, c := range []*cobra.Command{
		publishCommand(f), buildsCommand(f), removeBuildsCommand(f),
		rollCommand(f), rolloutStatusCommand(f), rolloutStopCommand(f), rolloutResumeCommand(f),
	} {
		f.addServer(c)
		cmd.AddCommand(c)
	}
	return cmd
}

// signatureSuffix is minisign's own.
const signatureSuffix = ".minisig"

func publishCommand(f *operatorFlags) *cobra.Command {
	var signature string
	cmd := &cobra.Command{
		Use:   "publish FILE…",
		Short: "Upload signed programs, so that they can be rolled out",
		Long: "Upload signed programs, so that they can be rolled out. Version and platform are\n" +
			"those that the signature names; it lies beside each FILE as FILE.minisig.",
		Example: "  gururmm update publish gururmm-agent-linux-amd64 gururmm-agent-linux-arm64",
		Args:    help.Words(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if signature != "" && len(args) > 1 {
				return errors.New("--signature is for one FILE; of several, each signature lies beside its FILE as FILE.minisig")
			}
			programs, err := programsOf(args)
			if err != nil {
				return err
			}
			client, err := f.client()
			if err != nil {
				return err
			}
			var done []wire.Build
			for _, path := range programs {
				from := signature
				if from == "" {
					from = path + signatureSuffix
				}
				b, err := publishFile(cmd, client, path, from)
				if err != nil {
					return fmt.Errorf("%s: %w", path, explain(err))
				}
				if done = append(done, b); !f.json {
					fmt.Fprintln(cmd.OutOrStdout(), wrap.Behind("", fmt.Sprintf("Published %s for %s/%s (%s).", b.Version, b.OS, b.Arch, sizeOf(b.Size))))
				}
			}
			if f.json {
				return printJSON(cmd.OutOrStdout(), operator.List[wire.Build]{Items: done})
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&signature, "signature", "", "signature of the one FILE (default FILE.minisig)")
	return cmd
}

// programsOf leaves out signatures: a pattern that fits programs fits those beside them, too.
func programsOf(paths []string) ([]string, error) {
	programs := slices.DeleteFunc(slices.Clone(paths), func(path string) bool { return strings.HasSuffix(path, signatureSuffix) })
	if len(programs) == 0 {
		return nil, fmt.Errorf("there is no program among these, only signatures: %s", strings.Join(paths, ", "))
	}
	return programs, nil
}

func publishFile(cmd *cobra.Command, client *operator.Client, path, signature string) (wire.Build, error) {
	raw, err := readBounded(signature)
	if errors.Is(err, os.ErrNotExist) {
		return wire.Build{}, fmt.Errorf("its signature is not there: sign it first, with `gururmm update sign` or minisign -t (%w)", err)
	}
	if err != nil {
		return wire.Build{}, err
	}
	b, err := release.Signed(string(raw))
	if err != nil {
		return b, fmt.Errorf("%s: %w", signature, err)
	}
	file, err := os.Open(path)
	if err != nil {
		return b, fileerr.Why(err)
	}
	defer file.Close()
	h := sha256.New()
	if b.Size, err = io.Copy(h, io.LimitReader(file, wire.MaxBuild+1)); err != nil {
		return b, err
	}
	if b.Size > wire.MaxBuild {
		return b, fmt.Errorf("larger than %s", sizeOf(wire.MaxBuild))
	}
	b.SHA256 = hex.EncodeToString(h.Sum(nil))
	if err := release.CheckPlatform(file, b); err != nil {
		return b, err
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return b, err
	}
	return b, client.Publish(cmd.Context(), b, file)
}

func buildsCommand(f *operatorFlags) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the published programs", Args: help.Words(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := f.client()
			if err != nil {
				return err
			}
			items, err := client.Builds(cmd.Context())
			if err != nil {
				return explain(err)
			}
			if f.json {
				return printJSON(cmd.OutOrStdout(), operator.List[operator.Build]{Items: items})
			}
			if len(items) == 0 {
				fmt.Fprintln(cmd.OutOrStdout(), "Nothing is published yet: gururmm update publish FILE…")
				return nil
			}
			return listBuilds(cmd.OutOrStdout(), items)
		},
	}
}

func listBuilds(w io.Writer, items []operator.Build) error {
	rows := [][]string{{"VERSION", "PLATFORM", "SIZE", "BY", "PUBLISHED"}}
	for _, b := range items {
		rows = append(rows, []string{oneLine(b.Version, 20), b.OS + "/" + b.Arch, sizeOf(b.Size), oneLine(b.PublishedBy, 11), moment.Local(b.PublishedAt)})
	}
	for _, line := range columns(rows) {
		fmt.Fprintln(w, line)
	}
	return nil
}

func removeBuildsCommand(f *operatorFlags) *cobra.Command {
	return &cobra.Command{
		Use: "remove VERSION", Short: "Forget all published programs of a version",
		Example: "  gururmm update remove v1.2.2", Args: help.Words(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := f.client()
			if err != nil {
				return err
			}
			removed, err := client.RemoveBuilds(cmd.Context(), args[0])
			if err != nil {
				return explain(err)
			}
			if f.json {
				return printJSON(cmd.OutOrStdout(), operator.List[operator.Build]{Items: removed})
			}
			fmt.Fprintf(cmd.OutOrStdout(), "Removed %s of %s; endpoints that run it go on.\n", plural(len(removed), "program"), args[0])
			return nil
		},
	}
}
