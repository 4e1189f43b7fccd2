package bastion_test

import (
	"crypto/md5"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"sekisho/audit"
	"sekisho/bastion"
	"sekisho/bastion/bastiontest"
)

func TestAClientThatOffersAESGCMGetsNothingElse(t *testing.T) {
	const chacha, gcm, ctr = ssh.CipherChaCha20Poly1305, ssh.CipherAES256GCM, ssh.CipherAES128CTR
	for _, test := range []struct {
		name     string
		byClient bool
		offers   []string
		want     string
	}{
		{"as its last", false, []string{chacha, ctr, gcm}, gcm},
		{"and none", false, []string{chacha, ctr}, chacha},
		{"and its preference decides", true, []string{chacha, ctr, gcm}, chacha},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.want == gcm && !bastion.FastGCM { // the client's preference decides, then
				test.want = test.offers[0]
			}
			b := bastiontest.Start(t, bastiontest.Options{Config: func(c *bastion.Config) { c.CipherByClient = test.byClient }})
			config := b.ClientConfig("alice", b.Alice)
			config.Ciphers, config.MACs, config.KeyExchanges = test.offers, []string{"hmac-sha2-512"}, []string{"ecdh-sha2-nistp256"}
			client := b.DialAs(config)
			got := client.Conn.(ssh.AlgorithmsConnMetadata).Algorithms()
			if got.Read.Cipher != test.want || got.Write.Cipher != test.want {
				t.Errorf("%s and %s, want %s", got.Read.Cipher, got.Write.Cipher, test.want)
			}
			kex := "ecdh-sha2-nistp256,ext-info-c,kex-strict-c-v00@openssh.com"
			sum := md5.Sum([]byte(strings.Join([]string{kex, strings.Join(test.offers, ","), "hmac-sha2-512", "none"}, ";")))
			rec := b.Book.Await(t, audit.AuthOK, 1)
			if want := fmt.Sprintf("%x", sum); rec.Hassh != want || !strings.Contains(b.Lines.String(), "hassh="+want) {
				t.Errorf("hassh %q, want %q", rec.Hassh, want)
			}
		})
	}
}
