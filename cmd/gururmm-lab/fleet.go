package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gururmm/internal/fileerr"
	"gururmm/internal/help"
	"gururmm/lab/fleet"
	"gururmm/lab/harness"
	"gururmm/operator"
)

// maxTokenFile bounds what is read of a token file, in bytes.
const maxTokenFile = 4 << 10

func fleetCommand() *cobra.Command {
	o := fleet.Options{}
	var tokenFile, mix, pin, ca string
	var asJSON, restart bool
	var bin string
	cmd := &cobra.Command{
		Use:   "fleet --agents N { --server URL --enroll-token-file FILE | --restart }",
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

With --restart the fleet gets a server of its own, from --bin and with defaults,
which is ended and started again while commands flow. Printed is how long the
agents took to come back, and the most memory that the server took. Orders that
it does not take meanwhile are sent again with their key.

The server must be in 127.0.0.0/8; each agent has an address of its own there.
The operator token is taken from $GURURMM_TOKEN. Exits 0 only if all commands of
idle, chatty and flapping agents were completed, each once, and the server gave
up the links that stand still; with --restart also only if all of them were
verified again within a minute. Each agent takes two open files (ulimit -n), one
here and one in the server.`,
		Example: "  gururmm-lab fleet --agents 1000 --server https://127.0.0.1:8443 \\\n" +
			"    --enroll-token-file token.txt --pin sha256/… --duration 2m\n" +
			"  gururmm-lab fleet --agents 10000 --mix idle=1 --restart",
		Args: help.Words(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if mix == "" {
				mix = fleet.DefaultMix
			}
			if o.Mix, err = fleet.ParseMix(mix); err != nil {
				return fmt.Errorf("--mix: %w", err)
			}
			if restart {
				var end func() error
				if end, err = ownServer(cmd.Context(), bin, &o); err != nil {
					return err
				}
				defer func() { err = errors.Join(err, end()) }()
			} else if err = givenServer(tokenFile, orEnv(ca, "GURURMM_CA"), orEnv(pin, "GURURMM_PIN"), &o); err != nil {
				return err
			}
			o.Progress = func(s string) { fmt.Fprintln(cmd.ErrOrStderr(), s) }
			report, err := fleet.Run(cmd.Context(), o)
			if err != nil {
				return err
			}
			if asJSON {
				if err := printJSON(cmd, report); err != nil {
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
	flags.BoolVar(&restart, "restart", false, "restart a server of the fleet's own under it")
	flags.StringVar(&bin, "bin", "", "directory of gururmm and gururmm-agent, for --restart (default: where this program is)")
	if err := cmd.MarkFlagRequired("agents"); err != nil {
		panic(err) // the flag is defined above
	}
	for _, name := range []string{"server", "enroll-token-file", "pin", "ca"} {
		cmd.MarkFlagsMutuallyExclusive("restart", name)
	}
	cmd.MarkFlagsMutuallyExclusive("server", "bin")
	return cmd
}

// givenServer has the fleet go to a server that runs already.
func givenServer(tokenFile, ca, pin string, o *fleet.Options) (err error) {
	if o.Server == "" || tokenFile == "" {
		return errors.New("say which server: --server and --enroll-token-file, or --restart for one of its own")
	}
	if o.EnrollToken, err = readToken(tokenFile); err != nil {
		return fmt.Errorf("--enroll-token-file: %w", err)
	}
	if o.Operator = os.Getenv("GURURMM_TOKEN"); o.Operator == "" {
		return errors.New("set GURURMM_TOKEN to an operator token: the server is asked what it did")
	}
	o.TLS, err = operator.TLSConfig(ca, pin)
	return err
}

// ownServer starts one for the fleet; end ends it.
func ownServer(ctx context.Context, bin string, o *fleet.Options) (end func() error, err error) {
	if bin == "" {
		self, err := os.Executable()
		if err != nil {
			return nil, err
		}
		bin = filepath.Dir(self)
	}
	programs, err := harness.Find(bin)
	if err != nil {
		return nil, err
	}
	front, err := harness.Fixed()
	if err != nil {
		return nil, err
	}
	dir, err := place("")
	if err != nil {
		return nil, err
	}
	stack, err := harness.Start(ctx, harness.Options{Bin: programs, Dir: dir, Front: front})
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	end = func() error { return errors.Join(stack.Close(), os.RemoveAll(dir)) }
	token, err := stack.Client().CreateEnrollToken(ctx, operator.NewEnrollToken{Uses: max(1, o.Agents)})
	if err != nil {
		return nil, errors.Join(err, end())
	}
	o.EnrollToken, o.Restart = token.Token, stack.Restarted()
	o.Server, o.TLS, o.Operator = stack.Door()
	return end, nil
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
