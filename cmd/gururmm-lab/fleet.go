package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gururmm/internal/fileerr"
	"gururmm/internal/help"
	"gururmm/lab/fleet"
	"gururmm/operator"
)

// maxTokenFile bounds what is read of a token file, in bytes.
const maxTokenFile = 4 << 10

func fleetCommand() *cobra.Command {
	o := fleet.Options{}
	var tokenFile, mix, pin, ca string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "fleet --agents N --server URL --enroll-token-file FILE",
		Short: "Play many agents to a server on this machine",
		Long: `Play many agents to a server on this machine.

Enrolls N agents, holds their links for --duration once all are verified, orders
commands of each, and prints what each kind did and what the server did about
it. Nothing is run: a command is acknowledged and answered. Kinds:

  idle      does what the policy asks           chatty   talks each second
  flapping  leaves and comes back               deaf     reads, handles nothing
  halfopen  stands still, socket open           cloned   two of one identity

By default they weigh
` + fleet.DefaultMix + `.

The server must be in 127.0.0.0/8; each agent has an address of its own there.
The operator token is taken from $GURURMM_TOKEN. Exits 0 only if all commands of
idle, chatty and flapping agents were completed, each once, and the server gave
up the links that stand still.`,
		Example: "  gururmm-lab fleet --agents 1000 --server https://127.0.0.1:8443 \\\n" +
			"    --enroll-token-file token.txt --pin sha256/… --duration 2m",
		Args: help.Words(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if mix == "" {
				mix = fleet.DefaultMix
			}
			if o.Mix, err = fleet.ParseMix(mix); err != nil {
				return fmt.Errorf("--mix: %w", err)
			}
			if o.EnrollToken, err = readToken(tokenFile); err != nil {
				return fmt.Errorf("--enroll-token-file: %w", err)
			}
			if o.Operator = os.Getenv("GURURMM_TOKEN"); o.Operator == "" {
				return errors.New("set GURURMM_TOKEN to an operator token: the server is asked what it did")
			}
			if o.TLS, err = operator.TLSConfig(orEnv(ca, "GURURMM_CA"), orEnv(pin, "GURURMM_PIN")); err != nil {
				return err
			}
			o.Progress = func(s string) { fmt.Fprintln(cmd.ErrOrStderr(), s) }
			report, err := fleet.Run(cmd.Context(), o)
			if err != nil {
				return err
			}
			if asJSON {
				enc := json.NewEncoder(cmd.OutOrStdout())
				enc.SetIndent("", "  ")
				if err := enc.Encode(report); err != nil {
					return err
				}
			} else {
				report.Print(cmd.OutOrStdout())
			}
			if len(report.Wrong) > 0 {
				return errNotHeld
			}
			return nil
		},
	}
	flags := cmd.Flags()
	flags.IntVar(&o.Agents, "agents", 0, "how many")
	flags.StringVar(&o.Server, "server", "", "server URL, in 127.0.0.0/8")
	flags.StringVar(&tokenFile, "enroll-token-file", "", "file with an enrollment token for that many uses")
	flags.StringVar(&mix, "mix", "", "weights of the kinds, KIND=N,… (default: see above)")
	flags.Uint64Var(&o.Seed, "seed", 1, "what is drawn is drawn from this")
	flags.DurationVar(&o.Hold, "duration", time.Minute, "how long the verified fleet is held")
	flags.IntVar(&o.Commands, "commands", 1, "commands ordered of each agent")
	flags.StringVar(&pin, "pin", "", "the server's key, sha256/… (default $GURURMM_PIN)")
	flags.StringVar(&ca, "ca", "", "PEM file of the server's CA (default $GURURMM_CA)")
	flags.BoolVar(&asJSON, "json", false, "print JSON")
	for _, name := range []string{"agents", "server", "enroll-token-file"} {
		if err := cmd.MarkFlagRequired(name); err != nil {
			panic(err) // the flag is defined above
		}
	}
	return cmd
}

func orEnv(flag, env string) string {
	if flag != "" {
		return flag
	}
	return os.Getenv(env)
}

// readToken reads a file with one token in it.
func readToken(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", fileerr.Why(err)
	}
	if info.Size() > maxTokenFile {
		return "", fmt.Errorf("%s is no token: it has %d bytes", path, info.Size())
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return "", fileerr.Why(err)
	}
	return strings.TrimSpace(string(raw)), nil
}
