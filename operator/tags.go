package operator

import (
	"context"
	"fmt"
	"net/http"
	"regexp"
)

// MaxTags is how many tags one endpoint may have.
const MaxTags = 32

var tagForm = regexp.MustCompile(`^[a-z0-9][a-z0-9._:-]{0,63}$`)

// CheckTag says what a tag may be, if s is none.
func CheckTag(s string) error {
	if !tagForm.MatchString(s) {
		return fmt.Errorf("%.70q is no tag: want up to 64 of a to z, 0 to 9 and . _ : -, and a letter or digit first", s)
	}
	return nil
}

// TagChange puts tags on endpoints and takes others off, of all of them or of none
// (POST /v1/tags).
type TagChange struct {
	Agents []string `json:"agents"` // names or ids
	Add    []string `json:"add,omitempty"`
	Remove []string `json:"remove,omitempty"`
}

// ChangeTags gives the endpoints as they are then.
func (c *Client) ChangeTags(ctx context.Context, t TagChange) ([]Agent, error) {
	l, err := call[List[Agent]](c, ctx, http.MethodPost, "/v1/tags", nil, t)
	return l.Items, err
}
