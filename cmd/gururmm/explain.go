package main

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"gururmm/internal/neterr"
	"gururmm/operator"
	"gururmm/wire"
)

// explain puts what to do next behind an error where that is known.
func explain(err error) error {
	if p, ok := errors.AsType[wire.Problem](err); ok {
		switch p.Code {
		case wire.ProblemUnauthorized:
			return fmt.Errorf("%w; log in again: gururmm login", err)
		case wire.ProblemAmbiguous:
			return fmt.Errorf("%w; give the id, or more of it", err)
		}
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return fmt.Errorf("%w; trust this server by its key, --pin sha256/… (it prints it when it starts), or by its CA, --ca FILE", err)
	}
	return err
}

// Codes of errors that are not the server's, in JSON.
const (
	codeFailed      = "failed"       // of the command line, its files or the connection
	codeNotUTF8     = "not_utf8"     // words that JSON can't carry
	codeUntrusted   = "untrusted"    // the server's certificate or key
	codeNoExitCode  = "no_exit_code" // exec: the command ended without one
	codeLeftRunning = "left_running" // exec: by Ctrl-C
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
	fmt.Fprintln(w, "gururmm:", err)
}
