package kvm

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"path/filepath"
	"time"

	"joist/hypervisor/guest"
)

// The guest agent's protocol is QMP's JSON, a line each way, without greeting
// and ids (QEMU: docs/interop/qemu-ga.rst). What an earlier caller that gave
// up has left in the channel is got rid of by guest-sync-delimited: the agent
// puts a byte 0xff, which no JSON has, in front of its answer to that.

const (
	agentMark = 0xff
	// maxReply bounds what a guest can make us keep; the list of interfaces of
	// a machine with a thousand of them has half of it.
	maxReply = 1 << 20
)

// AskAgent sends the agent inside the guest a command and returns its answer.
// ctx must have a deadline: whether there is an agent shows only in that it
// answers. What the agent refuses is a *guest.AgentError.
func (m *Machine) AskAgent(ctx context.Context, command string) (json.RawMessage, error) {
	reply, err := m.askAgent(ctx, command)
	var refused *guest.AgentError
	if err != nil && !errors.As(err, &refused) {
		return nil, fmt.Errorf("ask agent of guest %d: %s: %w", m.vmid, command, err)
	}
	return reply, err
}

func (m *Machine) askAgent(ctx context.Context, command string) (json.RawMessage, error) {
	// QEMU serves one connection at a time.
	select {
	case m.agent <- struct{}{}:
		defer func() { <-m.agent }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", filepath.Join(m.d.Runs.Folder(m.vmid), "agent"))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	reply, err := talk(conn, command, rand.Int64N(1<<53)) // a number that JSON keeps whatever the agent is written in
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return reply, err
}

type agentCommand struct {
	Execute   string         `json:"execute"`
	Arguments map[string]any `json:"arguments,omitempty"`
}

type agentReply struct {
	Return json.RawMessage   `json:"return"`
	Error  *guest.AgentError `json:"error"`
}

// talk synchronises with the agent and asks it one thing.
func talk(rw io.ReadWriter, command string, id int64) (json.RawMessage, error) {
	r := bufio.NewReader(io.LimitReader(rw, maxReply))
	if err := say(rw, []byte{agentMark}, agentCommand{"guest-sync-delimited", map[string]any{"id": id}}); err != nil {
		return nil, err
	}
	for synced := false; !synced; {
		for b := byte(0); b != agentMark; {
			var err error
			if b, err = r.ReadByte(); err != nil {
				return nil, err
			}
		}
		reply, err := hear(r)
		if err != nil {
			return nil, err
		}
		var got int64
		synced = reply.Error == nil && json.Unmarshal(reply.Return, &got) == nil && got == id
	}
	if err := say(rw, nil, agentCommand{Execute: command}); err != nil {
		return nil, err
	}
	reply, err := hear(r)
	if err != nil {
		return nil, err
	}
	if reply.Error != nil {
		return nil, reply.Error
	}
	if len(reply.Return) == 0 {
		return nil, errors.New("the agent's answer has no result")
	}
	return reply.Return, nil
}

func say(w io.Writer, head []byte, c agentCommand) error {
	b, err := json.Marshal(c)
	if err != nil {
		return err
	}
	_, err = w.Write(append(append(head, b...), '\n'))
	return err
}

func hear(r *bufio.Reader) (agentReply, error) {
	for {
		line, err := r.ReadBytes('\n')
		if err != nil {
			return agentReply{}, err
		}
		if line = bytes.TrimLeft(line, "\xff \t\r\n"); len(line) == 0 {
			continue
		}
		var reply agentReply
		if err := json.Unmarshal(line, &reply); err != nil {
			return reply, fmt.Errorf("read the agent's answer: %w", err)
		}
		return reply, nil
	}
}
