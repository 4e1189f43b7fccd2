package main

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"

	"sekisho/authz/strictyaml"
	"sekisho/bastion"
	"sekisho/bastion/admin"
)

// What commands ask the server that runs, over the admin socket:
//
//	POST /v1/reload   wantReload → reloaded     read policy and hosts again
//	GET  /v1/locks             → lockState     those in force
//	POST /v1/locks   wantLocks → locking       read them again, or take those that could not be written
//	POST /v1/known   wantKnown → knownAnswer   whether the policy has a name
//	POST /v1/preview  wantPreview → previewed   what would end under another policy

type wantReload struct {
	Force bool `json:"force"`
}

type wantPreview struct {
	Policy []byte `json:"policy"` // text of a policy.yaml
}

type previewed struct {
	Live        int              `json:"live"` // forwards
	Forwards    []bastion.Ending `json:"forwards"`
	Connections []bastion.Ending `json:"connections"`
}

// A lockState is where the server has its locks, and which it has.
type lockState struct {
	Path      string `json:"path"`
	Text      []byte `json:"text"`
	Unwritten bool   `json:"unwritten,omitempty"` // they are not in the file
}

type wantLocks struct {
	Text []byte `json:"text,omitempty"` // of locks; empty: those of the file
}

// api answers commands.
func (svc *service) api() *admin.Server {
	server := admin.NewServer(func(text string, fields map[string]any) {
		svc.log.WithFields(fields).Warn("admin socket: " + text)
	})
	server.Handle("POST /v1/reload", func(_ context.Context, peer admin.Peer, body []byte) (any, error) {
		var want wantReload
		if err := json.Unmarshal(body, &want); err != nil {
			return nil, fmt.Errorf("reading the request: %w", err)
		}
		svc.log.WithField("by", peer.User).Info("reload is asked for")
		return svc.reload(byCommand, want.Force), nil
	})
	server.Handle("GET /v1/locks", func(context.Context, admin.Peer, []byte) (any, error) {
		svc.reloading.Lock()
		defer svc.reloading.Unlock()
		s := svc.setup
		path, err := filepath.Abs(s.path(s.settings.Locks))
		return lockState{path, s.beside.locks.Text(), svc.unwritten}, err
	})
	server.Handle("POST /v1/known", func(_ context.Context, _ admin.Peer, body []byte) (any, error) {
		var want wantKnown
		if err := json.Unmarshal(body, &want); err != nil {
			return nil, fmt.Errorf("reading the request: %w", err)
		}
		svc.reloading.Lock()
		policy := svc.setup.policy
		svc.reloading.Unlock()
		return want.ask(policy), nil
	})
	server.Handle("POST /v1/locks", func(_ context.Context, peer admin.Peer, body []byte) (any, error) {
		var want wantLocks
		if err := json.Unmarshal(body, &want); err != nil {
			return nil, fmt.Errorf("reading the request: %w", err)
		}
		done, problems := locking{}, strictyaml.Problems(nil)
		if len(want.Text) > 0 {
			done, problems = svc.tellLocks(want.Text, peer.User)
		} else {
			done, problems = svc.reloadLocks(peer.User)
		}
		if problems.Err() != nil {
			return nil, &admin.Error{Message: "the locks are not taken over: " + texts(problems)}
		}
		return done, nil
	})
	svc.handleSeeing(server)
	svc.handleDrain(server)
	server.HandleUpTo(2*mostBytes, "POST /v1/preview", func(_ context.Context, _ admin.Peer, body []byte) (any, error) {
		var want wantPreview
		if err := json.Unmarshal(body, &want); err != nil {
			return nil, fmt.Errorf("reading the request: %w", err)
		}
		return svc.preview(want.Policy)
	})
	return server
}

// preview says what would end if a policy came into force.
func (svc *service) preview(text []byte) (*previewed, error) {
	s := svc.setup
	policy, problems := s.parse(text, s.path(s.settings.Policy))
	if problems.Err() != nil {
		return nil, &admin.Error{Message: texts(problems)}
	}
	svc.reloading.Lock()
	policy, _ = s.beside.lay(policy)
	svc.reloading.Unlock()
	p := &previewed{Live: svc.server.Forwards()}
	p.Forwards, p.Connections = svc.server.Preview(policy)
	return p, nil
}

// call asks the server that runs with these settings.
func (s *setup) call(ctx context.Context, method, path string, in, out any) error {
	if s.settings.Admin.Socket == "" {
		return fmt.Errorf("%w that commands could ask: admin.socket is empty", admin.ErrNotRunning)
	}
	client := admin.Client{Path: s.path(s.settings.Admin.Socket)}
	return client.Call(ctx, method, path, in, out)
}

// problemsOf are the problems that an answer tells of.
func (r *reloaded) problemsOf() strictyaml.Problems { return fromLines(r.Problems) }
