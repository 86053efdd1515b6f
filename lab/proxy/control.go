package proxy

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
)

// Order obeys one line and gives the answer to print:
//
//	down drop-text [and strip-pings …]   put faults in force in a direction
//	both freeze                          the same down and up
//	up clear                             mend a direction; "clear" mends all
//	status                               faults in force and counts, as JSON
//	events                               the log so far
func (p *Proxy) Order(line string) (string, error) {
	words := strings.Fields(line)
	if len(words) == 0 {
		return "", nil
	}
	switch words[0] {
	case "status":
		return p.status()
	case "events":
		var b strings.Builder
		for _, e := range p.Events() {
			fmt.Fprintln(&b, e)
		}
		return strings.TrimSuffix(b.String(), "\n"), nil
	case "clear":
		var errs []error
		for _, dir := range Directions {
			errs = append(errs, p.Clear(dir))
		}
		return "ok", errors.Join(errs...)
	}
	if len(words) < 2 {
		return "", fmt.Errorf("%w: %q; say DIRECTION FAULT, DIRECTION clear, clear, status or events", ErrFault, line)
	}
	dirs := []Direction{Direction(words[0])}
	if words[0] == "both" {
		dirs = []Direction{Down, Up}
	}
	var faults []Fault
	for _, w := range words[1:] {
		if w == "clear" || w == "and" {
			continue
		}
		f, err := ParseFault(w)
		if err != nil {
			return "", err
		}
		faults = append(faults, f)
	}
	for _, dir := range dirs {
		if !slices.Contains(Directions, dir) {
			return "", noDirection(dir)
		}
		if err := p.Set(dir, faults...); err != nil {
			return "", err
		}
	}
	return "ok", nil
}

func (p *Proxy) status() (string, error) {
	type side struct {
		Faults []Fault `json:"faults"`
		Counts Counts  `json:"counts"`
	}
	out := struct {
		Link string             `json:"link"`
		OOB  string             `json:"oob"`
		Dirs map[Direction]side `json:"directions"`
	}{p.Addr(), p.OOBAddr(), map[Direction]side{}}
	inForce := p.Faults()
	for _, dir := range Directions {
		out.Dirs[dir] = side{inForce[dir], p.Counts(dir)}
	}
	raw, err := json.MarshalIndent(out, "", "  ")
	return string(raw), err
}

// Obey reads orders line by line from in until it ends, and answers on out.
func (p *Proxy) Obey(in io.Reader, out io.Writer) error {
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		answer, err := p.Order(lines.Text())
		if err != nil {
			answer = "error: " + err.Error()
		}
		if answer == "" {
			continue
		}
		if _, err := fmt.Fprintln(out, answer); err != nil {
			return err
		}
	}
	return lines.Err()
}

// Control obeys whoever connects to l, until ctx ends. It closes l.
func (p *Proxy) Control(ctx context.Context, l net.Listener) error {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	var conns sync.WaitGroup
	defer conns.Wait()
	for {
		conn, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return errors.Join(err, l.Close())
		}
		conns.Go(func() {
			stop := context.AfterFunc(ctx, func() { conn.Close() })
			defer stop()
			defer conn.Close()
			p.Obey(conn, conn) // the end of a caller is no error of ours
		})
	}
}
