package main

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"

	"gururmm/diagnosis"
	"gururmm/internal/neterr"
	"gururmm/internal/tty"
	"gururmm/internal/wrap"
	"gururmm/operator"
	"gururmm/wire"
)

// explain puts what to do next behind an error where that is known.
func explain(err error) error {
	if p, ok := errors.AsType[wire.Problem](err); ok {
		switch p.Code {
		case wire.ProblemUnauthorized:
			return fmt.Errorf("%w; log in again: gururmm login (or set GURURMM_TOKEN)", err)
		case wire.ProblemAmbiguous:
			return fmt.Errorf("%w; give the id, or more of it", err)
		case codeNoServer:
			return fmt.Errorf("%w: is this the URL of a GuruRMM server, https and with the right port? It prints it when it starts", err)
		}
	}
	if e, ok := errors.AsType[*url.Error](err); ok {
		return unreached(err, e)
	}
	return err
}

// unreachedError is an error on the way to the server, in people's words.
type unreachedError struct {
	text string
	err  error
}

func (e *unreachedError) Error() string { return e.text }
func (e *unreachedError) Unwrap() error { return e.err }

func unreached(err error, at *url.Error) error {
	server := at.URL
	if u, failed := url.Parse(at.URL); failed == nil {
		server = u.Scheme + "://" + u.Host
	}
	text := fmt.Sprintf("the server %s can't be asked: %s", server, neterr.Plain(err))
	if advice := neterr.Advice(err); advice != "" {
		text += "; " + advice
	}
	return &unreachedError{text, err}
}

// Codes of errors that are not the server's, in JSON.
const (
	codeFailed      = "failed"       // of the command line, its files or the connection
	codeNotUTF8     = "not_utf8"     // words that JSON can't carry
	codeUntrusted   = "untrusted"    // the server's certificate or key
	codeNoExitCode  = "no_exit_code" // exec: the command ended without one
	codeLeftRunning = "left_running" // exec: by Ctrl-C
	codeNoServer    = "http"         // what answers is no server of ours
	codeBadCase     = "bad_case"     // diagnose: the case file can't be read
	codeNoOutcome   = "no_outcome"   // direct: the endpoint has not told it yet
)

// jsonError is an error as --json prints it, on one line of standard error.
type jsonError struct {
	Error string `json:"error"`
	// Code is stable, to branch on: that of the server's problem document, or one of ours.
	Code string `json:"code"`
}

func codeOf(err error) string {
	if p, ok := errors.AsType[wire.Problem](err); ok {
		return p.Code
	}
	if _, ok := errors.AsType[*operator.NotUTF8Error](err); ok {
		return codeNotUTF8
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok || errors.Is(err, neterr.ErrPin) {
		return codeUntrusted
	}
	if errors.Is(err, diagnosis.ErrCase) {
		return codeBadCase
	}
	if exit, ok := errors.AsType[*exitError](err); ok {
		switch exit.code {
		case exitDetached:
			return codeLeftRunning
		case exitUnknown:
			return codeNoOutcome
		}
		return codeNoExitCode
	}
	return codeFailed
}

// tell prints an error for people, or as JSON.
func tell(w io.Writer, err error, asJSON bool) {
	if asJSON {
		if raw, failed := json.Marshal(jsonError{err.Error(), codeOf(err)}); failed == nil {
			fmt.Fprintf(w, "%s\n", raw)
			return
		}
	}
	text := "gururmm: " + err.Error()
	// Folded for a reader at a terminal; a script's log keeps an error on its line.
	if f, ok := w.(*os.File); ok && tty.Is(f) {
		text = wrap.Behind("gururmm: ", err.Error())
	}
	fmt.Fprintln(w, text)
}
