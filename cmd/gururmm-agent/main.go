// Command gururmm-agent is the endpoint: it maps flags, environment and signals
// to package agent, and nothing else.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"gururmm/agent"
	"gururmm/agent/guardian"
	"gururmm/agent/local"
	"gururmm/agent/state"
	"gururmm/checkup"
	"gururmm/internal/help"
	"gururmm/internal/version"
	"gururmm/internal/wrap"
)

// envPrefix of the variables that stand for flags: --state-dir is GURURMM_AGENT_STATE_DIR.
const envPrefix = "GURURMM_AGENT_"

// defaultProgram is where packages for Linux put this program.
const defaultProgram = "/usr/bin/gururmm-agent"

// Exit codes besides those of `status`.
const (
	exitFailed      = 1
	exitNotEnrolled = 2
)

// exitCode ends the program with a code, its message already said.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

func main() {
	os.Exit(run(os.Args[1:]))
}

func run(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var o agent.Options
	cmd := root(&o)
	cmd.SetArgs(args)
	called, err := cmd.ExecuteContextC(ctx)
	code, ok := errors.AsType[exitCode](err)
	if err != nil && !ok && help.WantsJSON(args) && tellJSON(err) {
		if called.Name() == doctorName {
			return checkup.ExitNotRun
		}
		if errors.Is(err, state.ErrNotEnrolled) {
			return exitNotEnrolled
		}
		return exitFailed
	}
	switch {
	case err == nil:
		return 0
	case ok:
		return int(code)
	case errors.Is(err, state.ErrNotEnrolled):
		lastWords("gururmm-agent: %v. Enroll it with:\n  %s", err, agent.HintEnroll)
		return exitNotEnrolled
	case errors.Is(err, local.ErrNotRunning):
		lastWords("gururmm-agent: %v\n%s", err, adviseStart(o))
		return exitFailed
	case errors.Is(err, guardian.ErrHandover):
		return agent.ExitHandover
	case errors.Is(err, guardian.ErrRestartService):
		lastWords("gururmm-agent: ends to be started afresh by the service manager")
		return exitFailed
	}
	lastWords("gururmm-agent: %v", err)
	if called.Name() == doctorName { // whatever is wrong with the call is no fault that it found
		return checkup.ExitNotRun
	}
	return exitFailed
}

// Codes of errors in JSON: stable, to branch on.
const (
	codeFailed      = "failed" // of the command line, its files or the way to the agent
	codeNotEnrolled = "not_enrolled"
	codeNotRunning  = "not_running"
)

// tellJSON says err on one line of standard error, as --json has it; false: it is a
// service's end, whose words are for a log.
func tellJSON(err error) bool {
	code := codeFailed
	switch {
	case errors.Is(err, guardian.ErrHandover), errors.Is(err, guardian.ErrRestartService):
		return false
	case errors.Is(err, state.ErrNotEnrolled):
		code = codeNotEnrolled
	case errors.Is(err, local.ErrNotRunning):
		code = codeNotRunning
	}
	line, failed := json.Marshal(struct {
		Error string `json:"error"`
		Code  string `json:"code"`
	}{err.Error(), code})
	if failed != nil {
		return false
	}
	lastWords("%s", line)
	return true
}

// ofThisPlatform are the commands that one platform alone has.
var ofThisPlatform []func(*agent.Options) *cobra.Command

func root(o *agent.Options) *cobra.Command {
	cmd := &cobra.Command{
		Use:           "gururmm-agent",
		Short:         "The GuruRMM endpoint agent",
		Version:       version.Version,
		SilenceUsage:  true,
		SilenceErrors: true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			return fromEnvironment(cmd.Flags())
		},
	}
	for _, c := range []*cobra.Command{enrollCommand(o), eventsCommand(o), versionCommand(o)} {
		stateFlag(c, o)
		cmd.AddCommand(c)
	}
	for _, c := range []*cobra.Command{statusCommand(o), reconnectCommand(o), beaconCommand(o), policyCommand(o), doctorCommand(o), bundleCommand(o), settleCommand(o)} {
		stateFlag(c, o)
		socketFlag(c, o)
		cmd.AddCommand(c)
	}
	for _, c := range []*cobra.Command{runCommand(o), workerCommand(o), definitionCommand(o)} {
		allFlags(c, o)
		cmd.AddCommand(c)
	}
	for _, action := range agent.ServiceActions {
		cmd.AddCommand(serviceCommand(o, action))
	}
	for _, c := range ofThisPlatform {
		cmd.AddCommand(c(o))
	}
	help.Fit(cmd)
	return cmd
}

// A command has the flags that it heeds, and no others.

func stateFlag(cmd *cobra.Command, o *agent.Options) {
	cmd.PersistentFlags().StringVar(&o.StateDir, "state-dir", "", "directory of identity and state (default: the platform's)")
}

func socketFlag(cmd *cobra.Command, o *agent.Options) {
	cmd.PersistentFlags().StringVar(&o.StatusSocket, "status-socket", "", "where the local status is answered")
}

func allFlags(cmd *cobra.Command, o *agent.Options) {
	stateFlag(cmd, o)
	socketFlag(cmd, o)
	cmd.PersistentFlags().StringVar(&o.StatusGroup, "status-group", "", "Unix group that may ask for the status (default "+local.StatusGroup+")")
	cmd.PersistentFlags().StringVar(&o.LogLevel, "log-level", "", "debug, info, warn or error (default info)")
}

func enrollFileFlag(cmd *cobra.Command, o *agent.Options) {
	cmd.Flags().StringVar(&o.EnrollFile, "enroll-file", "", "order to enroll that the service carries out and removes (default /etc/gururmm/enroll.conf, with the platform's state directory)")
}

// fromEnvironment lets GURURMM_AGENT_* stand for flags that were not given.
func fromEnvironment(flags *pflag.FlagSet) error {
	var failed error
	flags.VisitAll(func(f *pflag.Flag) {
		name := envPrefix + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		value, set := os.LookupEnv(name)
		if !set || f.Changed || failed != nil || f.Name == "help" || f.Name == "version" {
			return
		}
		if err := flags.Set(f.Name, value); err != nil {
			failed = fmt.Errorf("%s: %w", name, err)
		}
	})
	return failed
}

func enrollCommand(o *agent.Options) *cobra.Command {
	var e agent.EnrollOptions
	cmd := &cobra.Command{
		Use:   "enroll --server URL (--token T | --token-file FILE)",
		Short: "Trade an enrollment token for an identity",
		Example: "  gururmm-agent enroll --server https://rmm.example:8443 \\\n" +
			"    --token-file token.txt --pin sha256/…\n" +
			"  echo TOKEN | gururmm-agent enroll --server https://rmm.example:8443 \\\n" +
			"    --token-file - --ca ca.pem",
		Args: help.Words(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if e.Server == "" {
				return errors.New("--server is required: https://HOST:8443")
			}
			s, err := agent.Prepare(*o)
			if err != nil {
				return err
			}
			got, err := agent.Enroll(cmd.Context(), s, e)
			if errors.Is(err, state.ErrEnrolled) {
				return fmt.Errorf("%w (--force takes a new identity and keeps the old one beside it)", err)
			}
			if err != nil {
				return err
			}
			where := ""
			if o.StateDir != "" {
				where = " --state-dir " + s.Path
			}
			packaged := ""
			if where == "" {
				packaged = agent.StartPackaged()
			}
			tellEnrolled(cmd.OutOrStdout(), got, s.Path, where, packaged)
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&e.Server, "server", "", "the server's URL: https://host:port")
	flags.StringVar(&e.Token, "token", "", "enrollment token; a process list shows it: prefer --token-file")
	flags.StringVar(&e.TokenFile, "token-file", "", "file with the enrollment token; - is standard input")
	flags.StringVar(&e.CAFile, "ca", "", "trust the roots in this PEM file instead of the system's")
	flags.StringVar(&e.Pin, "pin", "", "trust exactly this key: sha256/…")
	flags.BoolVar(&e.Force, "force", false, "replace an identity that is there already")
	return cmd
}

// tellEnrolled says what was got, and what to type next: commands stand alone in their
// lines, to be copied; where is the flag that leads to dir, if one is needed; packaged starts
// the service of a package, if one runs it.
func tellEnrolled(out io.Writer, got agent.Enrolled, dir, where, packaged string) {
	fmt.Fprintf(out, "%s\nState: %s\n", wrap.Behind("", "Enrolled as agent "+got.Agent+" of server "+got.Server+"."), dir)
	if got.Doors == 0 {
		fmt.Fprintln(out, "Note: the server offers no second door; nothing can be rescued out of band.")
	}
	if got.ReadBy != 0 {
		fmt.Fprintln(out, wrap.Behind("", fmt.Sprintf("Note: whoever works on this machine could read the token's file (mode %04o). If the token is good for more endpoints, make a new one and revoke this: gururmm enroll-token list.", got.ReadBy)))
	}
	if got.Offset.Abs() > agent.ClockNote {
		fmt.Fprintf(out, "Note: this machine's clock is %v off the server's; it is corrected for.\n", got.Offset.Round(agent.ClockNote))
	}
	if packaged != "" {
		fmt.Fprintf(out, "The package's service goes on with it within seconds:\n  gururmm-agent settle\nIf it was stopped:\n  %s\n", packaged)
		return
	}
	fmt.Fprintf(out, "Next, by hand:\n  gururmm-agent run%s\nOr as a service:\n  gururmm-agent install%s\n  gururmm-agent start\n", where, where)
}

func runCommand(o *agent.Options) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "run",
		Short:   "Guard this endpoint, by hand or for a service manager",
		Example: "  gururmm-agent run\n  gururmm-agent run --state-dir /tmp/agent --log-level debug",
		Args:    help.Words(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			defer slim(cmd.Context(), guardianLimit)()
			s, err := agent.Prepare(*o)
			if err != nil {
				return err
			}
			// A log whose reader is gone is no reason to end, nor to end the jobs; the worker
			// and its jobs don't inherit a handler.
			signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
			logs, err := openLogs(s)
			if err != nil {
				return err
			}
			defer logs.close()
			guard := func(ctx context.Context) error {
				err := agent.Run(ctx, s, logs.log, logs.worker)
				if err != nil && s.Service { // else main says it, on the same screen
					logs.log.Error("ended", "error", err)
				}
				return err
			}
			if s.Service {
				return s.RunService(cmd.Context(), guard)
			}
			return guard(cmd.Context())
		},
	}
	enrollFileFlag(cmd, o)
	cmd.Flags().BoolVar(&o.Service, "service", false, "a service manager runs this and starts it again when it fails")
	return cmd
}

func workerCommand(o *agent.Options) *cobra.Command {
	return &cobra.Command{
		Use: "worker", Short: "The guardian's child", Hidden: true, Args: help.Words(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			defer slim(cmd.Context(), workerLimit)()
			// Its end is the guardian's to order. A service manager signals the whole
			// group; the handler, unlike ignoring it, is not inherited by jobs. SIGPIPE:
			// with the guardian gone, a write to its pipes would end the worker before it
			// has ended its jobs.
			deaf := make(chan os.Signal, 1)
			signal.Notify(deaf, os.Interrupt, syscall.SIGTERM, syscall.SIGPIPE)
			s, err := agent.Prepare(*o)
			if err != nil {
				return err
			}
			log, sink := workerLog(s)
			defer sink.Close()
			return agent.RunWorker(context.WithoutCancel(cmd.Context()), s, os.Stdin, os.Stdout, log)
		},
	}
}

func serviceCommand(o *agent.Options, action string) *cobra.Command {
	short := map[string]string{
		"install": "Install the service", "uninstall": "Stop and remove the service; the state stays",
		"start": "Start the service", "stop": "Stop the service", "restart": "Restart the service",
	}[action]
	var s agent.Service
	cmd := &cobra.Command{
		Use: action, Short: short, Args: help.Words(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if s.Options, err = o.Absolute(); err != nil {
				return err
			}
			if err := agent.ControlService(action, s); err != nil {
				return err
			}
			if action == "install" {
				fmt.Fprintln(cmd.OutOrStdout(), "Installed. Next: gururmm-agent start")
			}
			return nil
		},
	}
	if action == "install" {
		cmd.Long = short + ". Flags and GURURMM_AGENT_* variables given here hold for the service too."
		cmd.Example = "  gururmm-agent install && gururmm-agent start\n  gururmm-agent install --hardened --log-level warn"
		allFlags(cmd, o)
		enrollFileFlag(cmd, o)
		cmd.Flags().BoolVar(&s.Hardened, "hardened", false, "systemd: jobs may observe the machine, not change it")
	}
	return cmd
}

func definitionCommand(o *agent.Options) *cobra.Command {
	s := agent.Service{Program: defaultProgram}
	cmd := &cobra.Command{
		Use:     "service-definition " + strings.Join(agent.Definitions, "|"),
		Short:   "Print what a service manager reads, for packages",
		Example: "  gururmm-agent service-definition systemd > gururmm-agent.service\n  gururmm-agent service-definition launchd --program /opt/gururmm-agent",
		Args:    cobra.MatchAll(help.Words(1, 1), cobra.OnlyValidArgs), ValidArgs: agent.Definitions,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if s.Options, err = o.Absolute(); err != nil {
				return err
			}
			text, err := s.Definition(args[0])
			if err != nil {
				return err
			}
			fmt.Fprint(cmd.OutOrStdout(), text)
			return nil
		},
	}
	cmd.Flags().StringVar(&s.Program, "program", s.Program, "where the package puts the program")
	return cmd
}

func versionCommand(o *agent.Options) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "version", Short: "Print the version, and which one guards here", Args: help.Words(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if asJSON {
				return indented(cmd.OutOrStdout(), agent.ReportVersion(*o))
			}
			return agent.WriteVersion(cmd.OutOrStdout(), *o)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
