package state

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"gururmm/internal/endpoint"
	"gururmm/oob"
	"gururmm/release"
	"gururmm/wire"
)

// Config is the optional agent.yaml: what a person set on this very machine.
// It outranks enrollment and policy.
//
//	log_level: info                  # debug, info, warn or error
//	status_socket: /run/gururmm-agent/status.sock
//	status_group: adm                # Unix group that may ask for status
//	link:
//	  urls: [wss://rmm.example:443/v1/link]
//	  proxy: http://gateway.example:3128   # or direct, or environment (the default)
//	oob:
//	  doors:
//	    - url: https://rmm.example:8444
//	      pin: sha256/…
//	  proxy: direct                  # the default: not the link's way out
//	release_keys: [RW…]              # minisign keys that updates must be signed with
type Config struct {
	LogLevel     string     `yaml:"log_level"`
	StatusSocket string     `yaml:"status_socket"`
	StatusGroup  string     `yaml:"status_group"`
	Link         LinkConfig `yaml:"link"`
	OOB          OOBConfig  `yaml:"oob"`
	// ReleaseKeys, if there are any, are trusted in place of those of the enrollment.
	ReleaseKeys []string `yaml:"release_keys"`
}

// LinkConfig overrides how the link is dialed.
type LinkConfig struct {
	URLs  []string `yaml:"urls"`
	Proxy string   `yaml:"proxy"`
}

// OOBConfig overrides the second door.
type OOBConfig struct {
	Doors []Door `yaml:"doors"`
	Proxy string `yaml:"proxy"`
}

// Door is a [wire.OOBDoor] in agent.yaml.
type Door struct {
	URL string `yaml:"url"`
	Pin string `yaml:"pin"`
}

// Config reads agent.yaml; no such file is an empty Config. The file is a
// person's: errors name key and line, and it is never changed or set aside.
func (d *Dir) Config() (Config, error) {
	raw, err := d.read(configFile, maxConfig)
	if errors.Is(err, fs.ErrNotExist) {
		return Config{}, nil
	}
	if err != nil {
		return Config{}, err
	}
	c, err := decodeConfig(raw)
	if err != nil {
		return Config{}, fmt.Errorf("%s: %w", d.Path(configFile), err)
	}
	return c, nil
}

// ParseConfig understands an agent.yaml that was read from beside the agent.
func ParseConfig(raw []byte) (Config, error) { return decodeConfig(raw) }

func decodeConfig(raw []byte) (Config, error) {
	var c Config
	var doc yaml.Node
	if err := yaml.Unmarshal(raw, &doc); err != nil {
		return Config{}, err
	}
	if len(doc.Content) == 0 { // empty, or comments only
		return c, nil
	}
	if err := knownKeys(doc.Content[0], reflect.TypeFor[Config](), ""); err != nil {
		return Config{}, err
	}
	if err := doc.Decode(&c); err != nil {
		return Config{}, err
	}
	return c, c.validate()
}

// knownKeys refuses a key that t has no field for: a misspelt setting must not
// be passed over.
func knownKeys(n *yaml.Node, t reflect.Type, at string) error {
	switch {
	case n.Kind == yaml.AliasNode:
		// An alias can stand for its own ancestor; configuration needs none.
		return fmt.Errorf("line %d: aliases are not supported", n.Line)
	case t.Kind() == reflect.Slice && n.Kind == yaml.SequenceNode:
		for _, item := range n.Content {
			if err := knownKeys(item, t.Elem(), at); err != nil {
				return err
			}
		}
	case t.Kind() == reflect.Struct && n.Kind == yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			key := n.Content[i]
			var names []string
			var field reflect.Type
			for f := range t.Fields() {
				name := f.Tag.Get("yaml")
				names = append(names, name)
				if name == key.Value {
					field = f.Type
				}
			}
			if field == nil {
				return fmt.Errorf("line %d: unknown key %q; known are %s", key.Line, at+key.Value, strings.Join(names, ", "))
			}
			if err := knownKeys(n.Content[i+1], field, at+key.Value+"."); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c Config) validate() error {
	if c.LogLevel != "" && !slices.Contains([]string{"debug", "info", "warn", "error"}, c.LogLevel) {
		return fmt.Errorf("log_level %q is not one of debug, info, warn, error", c.LogLevel)
	}
	for _, u := range c.Link.URLs {
		if err := endpoint.Check(u, "wss", "ws"); err != nil {
			return fmt.Errorf("link.urls: %w", err)
		}
	}
	if err := oob.CheckDoors(c.Doors(nil)); err != nil {
		return fmt.Errorf("oob.doors: %w", err)
	}
	if _, err := release.ParseKeys(c.ReleaseKeys); err != nil {
		return fmt.Errorf("release_keys: %w", err)
	}
	if _, err := c.LinkProxy(); err != nil {
		return fmt.Errorf("link.proxy: %w", err)
	}
	if _, err := c.OOBProxy(); err != nil {
		return fmt.Errorf("oob.proxy: %w", err)
	}
	return nil
}

// Doors are the doors set here; none are: those enrolled with.
func (c Config) Doors(enrolled []wire.OOBDoor) []wire.OOBDoor {
	if len(c.OOB.Doors) == 0 {
		return enrolled
	}
	var doors []wire.OOBDoor
	for _, d := range c.OOB.Doors {
		doors = append(doors, wire.OOBDoor{URL: d.URL, Pin: d.Pin})
	}
	return doors
}

// LinkProxy is how the link finds its proxy: unless set here, by the environment
// (HTTPS_PROXY, NO_PROXY).
func (c Config) LinkProxy() (func(*http.Request) (*url.URL, error), error) {
	return proxy(c.Link.Proxy, http.ProxyFromEnvironment)
}

// OOBProxy is how the second door finds its proxy: unless set here it uses none,
// so that it does not share the link's way out. nil: none.
func (c Config) OOBProxy() (func(*http.Request) (*url.URL, error), error) {
	return proxy(c.OOB.Proxy, nil)
}

func proxy(spec string, def func(*http.Request) (*url.URL, error)) (func(*http.Request) (*url.URL, error), error) {
	switch spec {
	case "":
		return def, nil
	case "direct":
		return nil, nil
	case "environment":
		return http.ProxyFromEnvironment, nil
	}
	u, err := url.Parse(spec)
	if err != nil {
		return nil, errors.New("not a URL") // the error's text would show a password
	}
	if !slices.Contains([]string{"http", "https", "socks5", "socks5h"}, u.Scheme) || u.Hostname() == "" {
		return nil, errors.New(`write "direct", "environment" or a URL like http://host:port (or https, socks5)`)
	}
	return http.ProxyURL(u), nil
}
