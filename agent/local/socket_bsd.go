//go:build unix && !linux

package local

// runDir is where the guardian of the default state directory answers.
const runDir = "/var/run/gururmm-agent"
