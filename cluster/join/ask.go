package join

import (
	"context"
	"encoding/json"
)

// Ask makes another call on the joiners' side of a node, after Connect where
// there was none yet; out is the answer's JSON.
func (c *HTTPS) Ask(ctx context.Context, path string, in, out any) error {
	if c.address == "" {
		if _, err := c.Connect(ctx); err != nil {
			return err
		}
	}
	answer, err := post[json.RawMessage](ctx, c, path, in)
	if err != nil {
		return err
	}
	return json.Unmarshal(answer, out)
}
