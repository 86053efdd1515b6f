// Package lab holds the end-to-end tests: real servers, agents and a box on the
// path between them, each fault and each kill, and what must come of it; and the
// proxies that people put before a server, as docs/deploy sets them up. See
// its tests; the parts are in lab/proxy, lab/harness and lab/demo.
package lab
