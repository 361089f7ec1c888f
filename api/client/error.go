package client

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// Error is a refusal by the node.
type Error struct {
	Status  int               // HTTP status
	Message string            // one line
	Fields  map[string]string // parameter → what is wrong with it
}

// Error is the message with the parameters' errors in order of their names.
func (e *Error) Error() string {
	text := e.Message
	names := make([]string, 0, len(e.Fields))
	for name := range e.Fields {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		text += fmt.Sprintf("; %s: %s", name, e.Fields[name])
	}
	return fmt.Sprintf("%s (%d)", text, e.Status)
}

// parseError reads an error's body; where it has no message, the reason phrase
// of the status line is it.
func parseError(resp *http.Response, raw []byte) *Error {
	var body struct {
		Message string            `json:"message"`
		Errors  map[string]string `json:"errors"`
	}
	e := &Error{Status: resp.StatusCode}
	if json.Unmarshal(raw, &body) == nil { // an unreadable body leaves the reason phrase
		e.Message = strings.TrimSpace(body.Message)
		for name, text := range body.Errors {
			if e.Fields == nil {
				e.Fields = map[string]string{}
			}
			e.Fields[name] = strings.TrimSpace(text)
		}
	}
	if e.Message == "" {
		_, reason, _ := strings.Cut(resp.Status, " ")
		e.Message = strings.TrimSpace(reason)
	}
	return e
}
