//go:build race

package lab_test

// raced: this test binary has the race detector in it.
const raced = true
