package main

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"sekisho/bastion"
	"sekisho/bastion/admin"
)

// What commands ask to see and to end what runs, beside what api tells of:
//
//	GET  /v1/sessions           → sessions   connections and forwards
//	GET  /v1/status             → status     of the server
//	POST /v1/kill     wantKill  → killed     end connections and forwards

// sessions are the connections that are logged in, with their forwards.
type sessions struct {
	Connections []bastion.ConnectionView `json:"connections"`
	BeforeLogin int                      `json:"before_login"` // connections
}

func (svc *service) handleSeeing(server *admin.Server) {
	server.Handle("GET /v1/sessions", func(context.Context, admin.Peer, []byte) (any, error) {
		var s sessions
		s.Connections, s.BeforeLogin = svc.server.LiveConnections()
		return s, nil
	})
	server.Handle("GET /v1/status", func(ctx context.Context, _ admin.Peer, _ []byte) (any, error) {
		return svc.status(ctx), nil
	})
	server.Handle("POST /v1/kill", func(_ context.Context, peer admin.Peer, body []byte) (any, error) {
		var want wantKill
		if err := json.Unmarshal(body, &want); err != nil {
			return nil, fmt.Errorf("reading the request: %w", err)
		}
		return svc.kill(want, peer.User)
	})
}

// ask asks the server whose settings are named. A mistake in them must keep
// nobody from seeing or ending what runs.
func (w *where) ask(cmd *cobra.Command, std stdio, args []string, method, path string, in, out any) error {
	s, err := w.lenient(cmd, std, args)
	if err != nil {
		return err
	}
	if err := s.call(cmd.Context(), method, path, in, out); err != nil {
		return serverError(err)
	}
	return nil
}
