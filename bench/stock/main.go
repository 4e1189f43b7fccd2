// Command stock is the SSH server of gliderlabs/ssh with its own forwarding
// handler, as that library's README shows it: what one gets without any work.
//
//	stock ADDRESS HOST_KEY AUTHORIZED_KEY
package main

import (
	"fmt"
	"log"
	"os"

	"github.com/gliderlabs/ssh"
)

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: stock ADDRESS HOST_KEY AUTHORIZED_KEY")
		os.Exit(2)
	}
	text, err := os.ReadFile(os.Args[3])
	if err != nil {
		log.Fatal(err)
	}
	allowed, _, _, _, err := ssh.ParseAuthorizedKey(text)
	if err != nil {
		log.Fatal(err)
	}
	server := ssh.Server{
		Addr: os.Args[1],
		PublicKeyHandler: func(_ ssh.Context, key ssh.PublicKey) bool {
			return ssh.KeysEqual(key, allowed)
		},
		LocalPortForwardingCallback: func(_ ssh.Context, host string, port uint32) bool {
			return host == "127.0.0.1"
		},
		ChannelHandlers: map[string]ssh.ChannelHandler{
			"direct-tcpip": ssh.DirectTCPIPHandler,
			"session":      ssh.DefaultSessionHandler,
		},
	}
	if err := server.SetOption(ssh.HostKeyFile(os.Args[2])); err != nil {
		log.Fatal(err)
	}
	log.Fatal(server.ListenAndServe())
}
