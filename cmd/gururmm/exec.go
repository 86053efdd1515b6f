package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"gururmm/internal/fileerr"
	"gururmm/internal/help"
	"gururmm/internal/tty"
	"gururmm/internal/wrap"
	"gururmm/operator"
	"gururmm/wire"
)

// execName is the command whose exit code is another command's.
const execName = "exec"

// Exit codes of exec beside the command's own.
const (
	exitNoCode   = 255 // the command has no exit code to pass on: never sent, never delivered, killed, timed out
	exitDetached = 130 // left running after Ctrl-C (128 + SIGINT)
)

// exitError carries an exit code to main; the message, if any, is printed there.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit %d", e.code)
	}
	return e.err.Error()
}
func (e *exitError) Unwrap() error { return e.err }

// reconnectEvents: a broken event stream is taken up again for so long.
const reconnectEvents = 2 * time.Minute

func execCommand(f *operatorFlags) *cobra.Command {
	var (
		shell, file, key string
		timeout, expires time.Duration
		maxOutput        int64
		detach           bool
		many             manyFlags
	)
	cmd := &cobra.Command{
		Use:   execName + " AGENT|--all|--site S|--tag T|--agents A,B [flags] -- CMD [ARG…]",
		Short: "Run a command on an endpoint and stream its output, or on many",
		Long: `Run a command on an endpoint, once, and stream its output; or on many.

One word after -- is taken as a script, as it is. Several are quoted so that they
arrive as the words you gave; that is for sh and bash only: for other shells they
are joined by spaces, so give a script in one word there, and --shell.
--file FILE runs a file's content (- reads standard input).

Exits with the command's own exit code; 255 if there is none to pass on (not sent,
never delivered, expired, cancelled, timed out, killed), with the reason on standard
error; 130 if Ctrl-C left the command running. What happens on the way is told on
standard error, too: which door the command took, which stage lost it and what
proves that.

--json prints one event a line, as a JSON object; output is in its data, base64.

With --all, --site, --tag or --agents it is a job of many endpoints: those that are
enrolled now, of one of the sites, with all of the tags, but for --except. Of more than
one you are asked first; a script gives --yes. Ctrl-C leaves the job running (gururmm
jobs). --at-once bounds how many have the command at the same time, and
--stop-after-failures ends the job for those that have not begun; so try it on a few.
Exits with 0 only if all have completed, else with 1.`,
		Example: "  gururmm exec web-17 -- uname -a\n" +
			"  gururmm exec web-17 --timeout 1m -- 'df -h | sort -k5'\n" +
			"  gururmm exec web-17 --file repair.sh\n" +
			"  gururmm exec pc-4 --shell powershell -- 'Get-Service W32Time'\n" +
			"  gururmm exec --all --output -- uname -r\n" +
			"  gururmm exec --site berlin --tag web --at-once 5 \\\n    --stop-after-failures 1 -- 'systemctl restart nginx'",
		Args: func(cmd *cobra.Command, args []string) error {
			if err := many.check(cmd); err != nil {
				return err
			}
			switch {
			case many.chosen():
				return manyWords(cmd, args)
			case len(args) == 0:
				return errors.New("which agent? gururmm exec AGENT -- CMD")
			case len(args) == 1 && !cmd.Flags().Changed("file"):
				return errors.New("what is to be run? gururmm exec AGENT -- CMD")
			case len(args) > 1 && cmd.Flags().Changed("file"):
				return errors.New("give either --file or words after --, not both")
			case len(args) > 1 && cmd.ArgsLenAtDash() < 0: // its flags would be taken for exec's
				return errors.New(putDashes(f.typed, args))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := errors.Join(checkDuration("timeout", timeout), checkDuration("expires", expires), checkCount("max-output", maxOutput)); err != nil {
				return err
			}
			client, err := f.client()
			if err != nil {
				return err
			}
			var script string
			words := args
			if !many.chosen() {
				words = args[1:]
			}
			if cmd.Flags().Changed("file") {
				if script, err = readScript(cmd.InOrStdin(), file); err != nil {
					return err
				}
			} else {
				script = joinScript(wire.Shell(shell), words)
			}
			if key == "" {
				key = wire.NewID() // a request repeated by the transport makes one command
			}
			if many.chosen() {
				return many.run(cmd, f, client, detach, operator.NewJob{
					Shell: wire.Shell(shell), Script: script,
					TimeoutMS: timeout.Milliseconds(), ExpiresInMS: expires.Milliseconds(),
					MaxOutput: maxOutput, IdempotencyKey: key,
				})
			}
			command, err := client.Submit(cmd.Context(), args[0], operator.NewCommand{
				Shell: wire.Shell(shell), Script: script,
				TimeoutMS: timeout.Milliseconds(), ExpiresInMS: expires.Milliseconds(),
				MaxOutput: maxOutput, IdempotencyKey: key,
			})
			if err != nil {
				return explain(err)
			}
			if detach {
				if f.json {
					return printJSON(cmd.OutOrStdout(), command)
				}
				fmt.Fprintln(cmd.OutOrStdout(), command.ID)
				return nil
			}
			w := &watch{client: client, json: f.json, out: cmd.OutOrStdout(), err: cmd.ErrOrStderr(), in: cmd.InOrStdin(), id: command.ID, agent: args[0]}
			return w.run(cmd.Context())
		},
	}
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		err = help.FlagError(cmd, err)
		if args := cmd.Flags().Args(); len(args) > 1 && cmd.ArgsLenAtDash() < 0 {
			return fmt.Errorf("%w; %s", err, putDashes(f.typed, args))
		}
		return err
	})
	cmd.Flags().StringVar(&shell, "shell", "", "sh, bash, powershell, cmd or python (default: sh, on Windows cmd)")
	cmd.Flags().StringVarP(&file, "file", "f", "", "run this file's content; - reads standard input")
	cmd.Flags().DurationVar(&timeout, "timeout", 10*time.Minute, "kill the command, with its whole process tree, after so long")
	cmd.Flags().DurationVar(&expires, "expires", 10*time.Minute, "not begun within so long, it never runs")
	cmd.Flags().Int64Var(&maxOutput, "max-output", wire.DefaultMaxOutput, "bytes kept of each of stdout and stderr")
	cmd.Flags().BoolVar(&detach, "detach", false, "print the command's id and don't wait")
	cmd.Flags().StringVar(&key, "idempotency-key", "", "a second exec with the same key and agent gets the first one's command; of a job, with the same key")
	many.add(cmd)
	return cmd
}

// putDashes says how typed should have been typed; args are the words in it, the agent first.
func putDashes(typed, args []string) string {
	at := 0
	for _, word := range []string{execName, args[0], args[1]} {
		for at < len(typed) && typed[at] != word {
			at++
		}
		at++
	}
	words := []string{"put -- before the command: gururmm"}
	for i, w := range typed {
		if i == at-1 {
			words = append(words, "--")
		}
		words = append(words, quote(w))
	}
	return strings.Join(words, " ")
}

// joinScript makes one script of the words after "--".
func joinScript(shell wire.Shell, words []string) string {
	if len(words) == 1 {
		return words[0]
	}
	if shell == wire.ShellPowerShell || shell == wire.ShellCmd || shell == wire.ShellPython {
		return strings.Join(words, " ")
	}
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = quote(w)
	}
	// In front, a plain word may be more than a word: an assignment (XCU 2.9.1) or a keyword (2.4).
	if w := words[0]; quoted[0] == w && (strings.Contains(w, "=") || slices.Contains(keywords, w)) {
		quoted[0] = "'" + w + "'"
	}
	return strings.Join(quoted, " ")
}

// keywords of sh and bash that look like plain words.
var keywords = []string{"if", "then", "else", "elif", "fi", "do", "done", "case", "esac", "while", "until", "for", "in",
	"function", "select", "time", "coproc"}

// quote makes w one word of a POSIX shell (XCU 2.2.2).
func quote(w string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./:=@%+,", r)
	}
	if w != "" && strings.IndexFunc(w, func(r rune) bool { return !plain(r) }) < 0 {
		return w
	}
	return "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
}

func readScript(stdin io.Reader, file string) (string, error) {
	r := stdin
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return "", fmt.Errorf("script: %w", fileerr.Why(err))
		}
		defer f.Close()
		r = f
	}
	raw, err := io.ReadAll(io.LimitReader(r, wire.MaxScript+1))
	if err != nil {
		return "", fmt.Errorf("script: %w", fileerr.Why(err))
	}
	if len(raw) > wire.MaxScript {
		return "", fmt.Errorf("script is over %d KiB; put it on the endpoint another way and run it from there", wire.MaxScript>>10)
	}
	return string(raw), nil
}

// watch follows one command until it has ended.
type watch struct {
	client   *operator.Client
	json     bool
	out, err io.Writer
	in       io.Reader
	id       string
	agent    string

	printed map[wire.Stream]int64 // bytes
	told    map[string]bool
	last    *operator.Command
}

func (w *watch) run(ctx context.Context) error {
	w.printed, w.told = map[wire.Stream]int64{}, map[string]bool{}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	interrupts := make(chan os.Signal, 2)
	signal.Notify(interrupts, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(interrupts)
	go func() {
		select {
		case <-ctx.Done():
		case sig := <-interrupts:
			w.offerCancel(ctx, sig, interrupts, stop)
		}
	}()

	deadline := time.Now().Add(reconnectEvents)
	for {
		err := w.client.Follow(ctx, w.id, func(ev operator.Event) error {
			deadline = time.Now().Add(reconnectEvents)
			return w.show(ev)
		})
		if w.last != nil && w.last.State.Terminal() {
			return w.end()
		}
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		var p wire.Problem
		if errors.As(err, &p) && p.Status < 500 || time.Now().After(deadline) {
			return &exitError{exitNoCode, fmt.Errorf("the command %s goes on, but can't be followed: %w", w.id, explain(err))}
		}
		w.notice("the server can't be reached; asking again (the command goes on)")
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// offerCancel asks a person what Ctrl-C was meant to say. Without a terminal,
// and on SIGTERM, there is nobody to ask: the command is left running and the
// line to stop it shown.
func (w *watch) offerCancel(ctx context.Context, sig os.Signal, again <-chan os.Signal, stop context.CancelCauseFunc) {
	detached := &exitError{exitDetached, fmt.Errorf("left running; follow: gururmm trace %s, stop: gururmm cancel %s", w.id, w.id)}
	stdin, ok := w.in.(*os.File)
	if !ok || sig != os.Interrupt || !tty.Is(stdin) {
		stop(detached)
		return
	}
	fmt.Fprintf(w.err, "\nCancel the command on %s, with its whole process tree?\n(y: cancel it; N: stop watching, it goes on) [y/N] ", w.agent)
	answer := make(chan string, 1)
	go func() { // ends with the process: a read of a terminal can't be called off
		line, _ := bufio.NewReader(stdin).ReadString('\n')
		answer <- strings.ToLower(strings.TrimSpace(line))
	}()
	select {
	case a := <-answer:
		if a == "y" || a == "yes" {
			if _, err := w.client.Cancel(ctx, w.id); err != nil {
				w.notice("not cancelled: " + explain(err).Error())
			} else {
				w.notice("cancel ordered; waiting for the endpoint's word")
			}
			return
		}
	case <-again:
	case <-ctx.Done():
		return
	}
	stop(detached)
}

func (w *watch) show(ev operator.Event) error {
	if ev.Command != nil {
		w.last = ev.Command
	}
	if w.json {
		raw, err := json.Marshal(ev)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(w.out, "%s\n", raw)
		return err
	}
	switch ev.Kind {
	case "output":
		to := w.out
		if ev.Stream == wire.Stderr {
			to = w.err
		}
		// Pieces may repeat after the stream was taken up again.
		skip := w.printed[ev.Stream] - ev.Offset
		if skip < 0 || skip >= int64(len(ev.Data)) {
			return nil
		}
		n, err := to.Write(ev.Data[skip:])
		w.printed[ev.Stream] += int64(n)
		return err
	case "notice":
		w.notice(ev.Notice)
	}
	return nil
}

func (w *watch) notice(s string) {
	if w.json || w.told[s] {
		return
	}
	w.told[s] = true
	fmt.Fprintf(w.err, "gururmm: %s\n", wrap.Plain(s))
}

// outputCut says how much of a command's output was left out, and why; "": nothing was.
func outputCut(c operator.Command) string {
	if c.StdoutLost == 0 && c.StderrLost == 0 {
		return ""
	}
	if c.Reason != "" {
		return "output was cut: " + c.Reason
	}
	return fmt.Sprintf("output was cut: %d bytes of stdout and %d of stderr were not kept; the endpoint does not say why (over the limit, or no space there)",
		c.StdoutLost, c.StderrLost)
}

func (w *watch) end() error {
	c := w.last
	if said := outputCut(*c); said != "" {
		w.notice(said)
	}
	if c.Orphans {
		w.notice("the script ended; processes it left behind go on, what they write is not kept")
	}
	if c.ExitCode != nil && (c.State == wire.StateCompleted || c.State == wire.StateFailed) {
		if *c.ExitCode == 0 {
			return nil
		}
		if n := *c.ExitCode; runtime.GOOS != "windows" && (n < 0 || n > 255) { // the rest would be cut off, perhaps to 0
			return &exitError{exitNoCode, fmt.Errorf("exit code %d, which is more than an exit status holds here", n)}
		}
		return &exitError{code: *c.ExitCode}
	}
	reason := ""
	if c.Reason != "" && c.Reason != string(c.State) {
		reason = ": " + wrap.Plain(c.Reason)
	}
	return &exitError{exitNoCode, fmt.Errorf("%s%s (gururmm trace %s)", c.State, reason, c.ID)}
}
