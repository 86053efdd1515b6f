package operator

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/url"
)

// Bundles lists an agent's support bundles, the newest first, those under way too.
func (c *Client) Bundles(ctx context.Context, agent string) ([]Bundle, error) {
	return list[Bundle](c, ctx, agentPath(agent, "/bundles"), nil)
}

// Bundle writes a complete bundle, as listed, to w and checks its hash: on an error
// what was written is not the bundle. It takes as long as bytes come.
func (c *Client) Bundle(ctx context.Context, b Bundle, w io.Writer) error {
	ctx, heard, end := whileHeard(ctx)
	defer end()
	res, err := c.request(ctx, http.MethodGet, bundlePath(b.Agent, b.ID), nil, nil)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	h := sha256.New()
	body := readerFunc(func(p []byte) (int, error) {
		n, err := res.Body.Read(p)
		heard()
		return n, err
	})
	n, err := io.Copy(io.MultiWriter(w, h), io.LimitReader(body, b.Size+1))
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	switch {
	case err != nil:
		return err
	case n != b.Size, hex.EncodeToString(h.Sum(nil)) != b.SHA256:
		return fmt.Errorf("bundle %s: what came are not the bytes that the endpoint sent; fetch it again", b.ID)
	}
	return nil
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// RemoveBundle makes the server forget a bundle, by id or an id's unique beginning.
func (c *Client) RemoveBundle(ctx context.Context, agent, id string) error {
	_, err := call[struct{}](c, ctx, http.MethodDelete, bundlePath(agent, id), nil, nil)
	return err
}

func bundlePath(agent, id string) string { return agentPath(agent, "/bundles/"+url.PathEscape(id)) }
