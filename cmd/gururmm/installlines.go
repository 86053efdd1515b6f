package main

import (
	"fmt"
	"io"
	"strings"

	"gururmm/internal/wrap"
	"gururmm/operator"
)

// installLine is a line that installs an agent and has it enroll.
type installLine struct {
	Platform string `json:"platform"` // deb, rpm, macos, linux or windows
	Title    string `json:"title"`    // for people
	Line     string `json:"line"`
}

// installLines are the lines to paste for t, a token with its secret. None puts the token in a
// process's arguments: printf and Set-Content are the shell's own.
func installLines(t operator.EnrollToken) []installLine {
	words := []string{"SERVER_URL=" + t.URL, "ENROLL_TOKEN=" + t.Token}
	pin, properties := "", "SERVER_URL="+t.URL
	if t.Pin != "" {
		words = append(words, "PIN="+t.Pin)
		pin = " --pin " + quote(t.Pin)
		properties += " PIN=" + t.Pin
	}
	for i, w := range words {
		words[i] = quote(w)
	}
	order := `printf '%s\n' ` + strings.Join(words, " ") + " | sudo "
	linux := order + "install -D -m 600 /dev/stdin /etc/gururmm/enroll.conf && sudo "
	// Its install(1) makes no folders.
	mac := order + "sh -c 'umask 077; mkdir -p /etc/gururmm && rm -f /etc/gururmm/enroll.conf && cat >/etc/gururmm/enroll.conf' && sudo "
	return []installLine{
		{"deb", "Debian, Ubuntu: where the package lies", linux + `apt install ./gururmm-agent_*_"$(dpkg --print-architecture)".deb`},
		{"rpm", "Fedora, RHEL: where the package lies (SUSE: zypper in place of dnf)", linux + `dnf install ./gururmm-agent-*."$(uname -m)".rpm`},
		{"macos", "macOS: where the package lies", mac + "installer -pkg ./gururmm-agent-*.pkg -target /"},
		{"linux", "Other Linux: where the program lies as gururmm-agent, and is to stay", `printf '%s\n' ` + quote(t.Token) + " | sudo ./gururmm-agent enroll --server " + quote(t.URL) +
			" --token-file -" + pin + " && sudo ./gururmm-agent install && sudo ./gururmm-agent start"},
		// A temporary file lies in the administrator's own folder, which others can't read. Start-Process waits.
		{"windows", "Windows, PowerShell as administrator: where the package lies (1603: it refused, and event 10005 of MsiInstaller says why)",
			// Where there is no package, or several, Get-Item says nothing, and msiexec nothing to the point.
			`$m = @(Get-Item ".\gururmm-agent-*-$(@{AMD64='x64'; ARM64='arm64'}[$env:PROCESSOR_ARCHITECTURE]).msi"); if ($m.Count -ne 1) { throw "$($m.Count) packages for this processor lie here, want 1" }` +
				`; $f = [IO.Path]::GetTempFileName(); Set-Content $f ` + powerShellWord(t.Token) +
				`; (Start-Process msiexec -Wait -PassThru ('/i "' + $m[0].FullName + '" /qn TOKEN_FILE="' + $f + ` + powerShellWord(`" `+properties) + `)).ExitCode` +
				`; Get-Content -Tail 4 "$env:ProgramData\GuruRMM\Agent\log\install.log"`},
	}
}

// powerShellWord quotes for PowerShell (about_Quoting_Rules).
func powerShellWord(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// tellInstallLines writes them for people; a line to paste is never folded.
func tellInstallLines(w io.Writer, t operator.EnrollToken) {
	for _, l := range installLines(t) {
		fmt.Fprintf(w, "\n%s:\n\n  %s\n", wrap.Behind("", l.Title), l.Line)
	}
	fmt.Fprintln(w, "\n"+wrap.Behind("", "The token is erased on the endpoint once it was traded. What the installer says then, gururmm-agent settle says again."))
}
