package endpoint_test

import (
	"strings"
	"testing"

	"gururmm/internal/endpoint"
)

func TestCheck(t *testing.T) {
	for raw, want := range map[string]string{
		"https://rmm.example:8443":     "",
		"https://[2001:db8::1]:8443/x": "",
		"http://127.0.0.1:80":          "",
		"http://[::1]:80":              "",
		"http://localhost":             "",
		"http://rmm.example":           "not encrypted",
		"http://127.0.0.1.evil.test":   "not encrypted",
		"https://user:pw@rmm.example":  "does not belong",
		"https://":                     "names no host",
		"rmm.example:8443":             "names no host",
		"ftp://rmm.example":            "does not begin with https://",
		"https://rmm.example:port":     "invalid port",
		"":                             "names no host",
		"127.0.0.1:8443":               `"127.0.0.1:8443" does not begin with https://`,
	} {
		err := endpoint.Check(raw, "https", "http")
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("Check(%q) = %v, want %q", raw, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "pw") {
			t.Errorf("Check(%q) shows the password: %v", raw, err)
		}
	}
}
