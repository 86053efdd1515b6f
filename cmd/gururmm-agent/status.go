package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"gururmm/agent"
	"gururmm/agent/local"
	"gururmm/internal/help"
	"gururmm/internal/tty"
	"gururmm/internal/wrap"
)

// watchEvery is how often --watch asks.
const watchEvery = time.Second

func statusCommand(o *agent.Options) *cobra.Command {
	var asJSON, watch, frames bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Ask the running agent how it is",
		Long: "Ask the running agent how it is.\n\n" +
			"Exit codes: 0 well, 1 degraded, 2 not running, not answering, not enrolled or unknown.",
		Example: "  gururmm-agent status\n  gururmm-agent status --watch\n  gururmm-agent status --json",
		Args:    help.Words(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			a := asker{options: *o, json: asJSON, frames: frames, watching: watch}
			socket, err := agent.FindSocket(*o)
			if err != nil {
				return a.unknown(cmd, err)
			}
			a.client = local.NewClient(socket)
			a.style.Color = tty.Colorful(os.Stdout)
			if watch {
				return a.watch(cmd.Context(), cmd.OutOrStdout())
			}
			code, err := a.show(cmd.Context(), cmd.OutOrStdout())
			if err != nil {
				return a.unknown(cmd, err)
			}
			if code != agent.ExitWell {
				return exitCode(code)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().BoolVar(&watch, "watch", false, "ask again each second")
	cmd.Flags().BoolVar(&frames, "frames", false, "list the headers of the last 512 frames")
	return cmd
}

// unknown says why there is no status.
func (a asker) unknown(cmd *cobra.Command, err error) error {
	if a.json {
		if err := a.writeJSON(cmd.OutOrStdout(), noStatus(err)); err != nil {
			return err
		}
		return exitCode(agent.ExitUnknown)
	}
	fmt.Fprintln(cmd.ErrOrStderr(), wrap.Behind("", "gururmm-agent: "+err.Error()))
	if silent, ok := errors.AsType[*agent.Silence](err); ok {
		fmt.Fprintln(cmd.ErrOrStderr(), wrap.Behind("", silent.Do()))
	}
	if errors.Is(err, local.ErrNotRunning) {
		fmt.Fprintln(cmd.ErrOrStderr(), adviseStart(a.options))
	}
	return exitCode(agent.ExitUnknown)
}

// adviseStart says what brings an agent up that does not run.
func adviseStart(o agent.Options) string {
	if dir, none := agent.NoIdentity(o); none {
		return wrap.Behind("", "Nothing is enrolled in "+dir+". Enroll it with:") + "\n  " + agent.HintEnroll
	}
	if bad := agent.BadIdentity(o); bad != nil {
		return wrap.Behind("", "It would not start: "+bad.Error()) +
			"\nRestore the file from a backup, or enroll anew, which keeps the old file:\n  " + agent.HintEnroll + " --force"
	}
	run := "gururmm-agent run"
	if o.StateDir != "" {
		run += " --state-dir " + o.StateDir
	}
	return startWith(run, agent.NoServiceManager())
}

// startWith says how to start the agent by hand, by run, and by the service manager unless
// there is none.
func startWith(run string, none error) string {
	if none != nil {
		return wrap.Behind("", "Start it with: "+run+"; as a service, "+none.Error()+".")
	}
	return "Start it with: gururmm-agent start, or: " + run
}

// absent stands for the status of an agent that gave none.
type absent struct {
	Mode  string `json:"mode"` // not_running, silent or unknown
	Error string `json:"error"`
	// Of a silent one, where they are known.
	PID   int    `json:"pid,omitempty"`
	State string `json:"kernel_state,omitempty"`
}

func noStatus(err error) absent {
	a := absent{Mode: "unknown", Error: err.Error()}
	if errors.Is(err, local.ErrNotRunning) {
		a.Mode = "not_running"
	}
	if silent, ok := errors.AsType[*agent.Silence](err); ok {
		a.Mode, a.PID, a.State = "silent", silent.PID, silent.State
	}
	return a
}

// asker asks and shows.
type asker struct {
	options agent.Options
	client  *local.Client
	json    bool
	frames  bool
	// watching: with json, one line an answer, for a program that reads on.
	watching bool
	style    agent.Style
}

// show asks once; the code is that of the verdict.
func (a asker) show(ctx context.Context, w io.Writer) (code int, err error) {
	asked := time.Now()
	s, err := a.client.Status(ctx)
	if err != nil {
		return 0, agent.Silent(a.options, asked, err)
	}
	code = agent.ExitCode(s)
	if !a.frames {
		if a.json {
			return code, a.writeJSON(w, s)
		}
		return code, agent.WriteStatus(w, s, a.style)
	}
	f, err := a.client.Frames(ctx)
	if err != nil {
		return 0, err
	}
	if a.json {
		return code, a.writeJSON(w, f)
	}
	return code, agent.WriteFrames(w, f)
}

// watch shows until ctx ends. On a terminal each picture replaces the one before.
func (a asker) watch(ctx context.Context, w io.Writer) error {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		var b bytes.Buffer
		if _, err := a.show(ctx, &b); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if !a.json {
				fmt.Fprintln(&b, err)
			} else if err := a.writeJSON(&b, noStatus(err)); err != nil {
				return err
			}
		}
		if a.style.Color && !a.json {
			fmt.Fprint(w, "\x1b[H\x1b[2J") // home, clear
		}
		if _, err := w.Write(b.Bytes()); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (a asker) writeJSON(w io.Writer, v any) error {
	if a.watching {
		return json.NewEncoder(w).Encode(v)
	}
	return indented(w, v)
}
