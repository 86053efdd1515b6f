package state_test

import (
	"net/http"
	"strings"
	"testing"
)

func TestConfig(t *testing.T) {
	d := open(t)
	c, err := d.Config()
	if err != nil || c.LogLevel != "" || c.Doors(nil) != nil {
		t.Fatalf("without a file: %+v, %v", c, err)
	}
	write(t, d.Path("agent.yaml"), []byte(`# local
log_level: debug
status_socket: /run/x.sock
link:
  urls: [wss://other.example/v1/link]
  proxy: http://user:secret@proxy.example:3128
oob:
  doors:
    - url: https://192.0.2.1:8444
      pin: sha256/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=
`))
	if c, err = d.Config(); err != nil {
		t.Fatal(err)
	}
	if c.LogLevel != "debug" || c.StatusSocket != "/run/x.sock" || len(c.Link.URLs) != 1 ||
		len(c.Doors(nil)) != 1 || c.Doors(nil)[0].URL != "https://192.0.2.1:8444" || c.Doors(nil)[0].Pin == "" {
		t.Errorf("%+v", c)
	}
	via, err := c.LinkProxy()
	if err != nil {
		t.Fatal(err)
	}
	req, _ := http.NewRequest("GET", "https://rmm.example", nil)
	if u, err := via(req); err != nil || u.Host != "proxy.example:3128" {
		t.Errorf("proxy %v, %v", u, err)
	}
	if via, err := c.OOBProxy(); err != nil || via != nil {
		t.Errorf("the second door has a proxy by default: %v", err)
	}
}

func TestConfigRefusals(t *testing.T) {
	for name, c := range map[string]struct {
		body string
		want []string // all in the error
	}{
		"unknown key":     {"log_level: info\nloglevel: info\n", []string{"line 2", `"loglevel"`, "log_level"}},
		"unknown inner":   {"link:\n  url: wss://x\n", []string{"line 2", `"link.url"`, "urls"}},
		"unknown in list": {"oob:\n  doors:\n    - url: https://x\n      key: y\n", []string{"line 4", `"oob.doors.key"`}},
		"wrong type":      {"log_level: [a]\n", []string{"line 1"}},
		"twice":           {"log_level: info\nlog_level: debug\n", []string{"line 2"}},
		"alias":           {"link: &a\n  urls: []\noob: *a\n", []string{"line 3", "alias"}},
		"not YAML":        {"log_level: info\na: b: c\n", []string{"line 2"}},
		"a list":          {"- a\n", []string{"line 1"}},
		"level":           {"log_level: loud\n", []string{"loud", "debug, info"}},
		"plain link":      {"link: {urls: ['ws://rmm.example']}\n", []string{"link.urls", "wss://"}},
		"plain door":      {"oob: {doors: [{url: 'http://rmm.example'}]}\n", []string{"oob.doors"}},
		"pin":             {"oob: {doors: [{url: 'https://rmm.example', pin: abc}]}\n", []string{"oob.doors", "abc"}},
		"proxy":           {"link: {proxy: 'proxy.example:3128'}\n", []string{"link.proxy"}},
		"too large":       {strings.Repeat("#", 300<<10), []string{"larger than"}},
	} {
		t.Run(name, func(t *testing.T) {
			d := open(t)
			write(t, d.Path("agent.yaml"), []byte(c.body))
			_, err := d.Config()
			if err == nil {
				t.Fatal("was taken")
			}
			for _, want := range append(c.want, d.Path("agent.yaml")) {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%v: does not say %q", err, want)
				}
			}
		})
	}
	d := open(t)
	write(t, d.Path("agent.yaml"), []byte("# nothing but comments\n"))
	if _, err := d.Config(); err != nil {
		t.Error(err)
	}
	write(t, d.Path("agent.yaml"), []byte("link: {proxy: 'http://u:secret@%zz'}\n"))
	if _, err := d.Config(); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("%v", err)
	}
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte("log_level: info\nlink: {urls: [wss://a]}\noob: {doors: [{url: https://a}]}\n"))
	f.Add([]byte("a: &a [*a]\n"))
	f.Add([]byte("link: &x {<<: *x}\n"))
	d := open(f)
	f.Fuzz(func(t *testing.T, raw []byte) {
		write(t, d.Path("agent.yaml"), raw)
		d.Config() // ends, without a panic
	})
}
