//go:build !linux

package bundle

func routes() ([]routeFacts, error) { return nil, nil }

func nameservers() []string { return nil }
