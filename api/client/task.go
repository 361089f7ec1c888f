package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// pollEvery is how often a running task is asked for its state.
const pollEvery = 500 * time.Millisecond

// TaskError is a task that did not end well.
type TaskError struct {
	UPID string
	Exit string   // the task's own words
	Log  []string // its last lines
}

// Error is the task's words and its log.
func (e *TaskError) Error() string {
	return fmt.Sprintf("task %s: %s\n%s", e.UPID, e.Exit, strings.Join(e.Log, "\n"))
}

// TaskStatus is the state of a task.
type TaskStatus struct {
	Status string `json:"status"` // "running" or "stopped"
	Exit   string `json:"exitstatus"`
	Type   string `json:"type"`
	ID     string `json:"id"`
}

// Task makes a request that answers a task and waits for its end.
func (c *Client) Task(ctx context.Context, method, path string, p Params) error {
	var upid string
	if err := c.Do(ctx, method, path, p, &upid); err != nil {
		return err
	}
	if err := c.WaitTask(ctx, upid); err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	return nil
}

// WaitTask waits for the end of a task. One that failed is a *TaskError with
// the end of its log. A node that does not answer meanwhile is asked again:
// a task outlives a restart of the API.
func (c *Client) WaitTask(ctx context.Context, upid string) error {
	base, err := taskPath(upid)
	if err != nil {
		return err
	}
	var last error
	for {
		var s TaskStatus
		last = c.Get(ctx, base+"/status", nil, &s)
		if refused(last) {
			return last
		}
		if last == nil && s.Status == "stopped" {
			if s.Exit == "OK" || strings.HasPrefix(s.Exit, "WARNINGS") {
				return nil
			}
			lines, err := c.TaskLog(ctx, upid)
			if err != nil {
				lines = []string{"(log: " + err.Error() + ")"}
			}
			return &TaskError{UPID: upid, Exit: s.Exit, Log: lines[max(0, len(lines)-50):]}
		}
		select {
		case <-ctx.Done():
			if last != nil {
				return fmt.Errorf("wait for task %s: %w; last: %w", upid, ctx.Err(), last)
			}
			return fmt.Errorf("wait for task %s: %w", upid, ctx.Err())
		case <-time.After(pollEvery):
		}
	}
}

// refused reports whether the node itself said no, which asking again does not
// change. Unavailable (503) and the codes of a failed relay to another node
// (595 and up) pass, as does a connection that fails.
func refused(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Status <= http.StatusNotImplemented
}

// TaskLog is the log of a task.
func (c *Client) TaskLog(ctx context.Context, upid string) ([]string, error) {
	base, err := taskPath(upid)
	if err != nil {
		return nil, err
	}
	var rows []struct {
		Text string `json:"t"`
	}
	if err := c.Do(ctx, http.MethodGet, base+"/log", Params{"limit": "10000"}, &rows); err != nil {
		return nil, err
	}
	if len(rows) == 1 && rows[0].Text == "no content" { // the protocol's words for a log that is empty yet
		return nil, nil
	}
	lines := make([]string, len(rows))
	for i, r := range rows {
		lines[i] = r.Text
	}
	return lines, nil
}

// taskPath finds the node in "UPID:node:…".
func taskPath(upid string) (string, error) {
	f := strings.Split(upid, ":")
	if len(f) != 9 || f[0] != "UPID" || f[1] == "" {
		return "", fmt.Errorf("parse task id %q: want UPID:node:pid:pstart:start:type:id:user:", upid)
	}
	return "/nodes/" + url.PathEscape(f[1]) + "/tasks/" + url.PathEscape(upid), nil
}
