import static java.util.Arrays.asList;

import java.util.Collections;
import java.util.List;
import java.util.Map;
import org.apache.curator.framework.CuratorFramework;
import org.apache.zookeeper.KeeperException;
import org.apache.zookeeper.ZooDefs.Ids;
import org.apache.zookeeper.ZooDefs.Perms;
import org.apache.zookeeper.data.ACL;
import org.apache.zookeeper.data.Id;
import org.apache.zookeeper.data.Stat;
import org.apache.zookeeper.server.auth.DigestAuthenticationProvider;

/** Access control lists, by Curator. */
final class Access {
    /** The super user, as the servers are told with its digest. */
    private static final String SUPER = "super:test";

    private Access() {}

    static void addTo(Map<String, CuratorRecipes.Part> parts) {
        parts.put("digest-access", Access::digests);
        parts.put("access-of-each-kind", Access::eachKind);
        parts.put("super-user", Access::superUser);
    }

    private static void digests(String root) throws Exception {
        try (CuratorFramework ann = Clients.curatorAs("ann:secret");
                CuratorFramework bob = Clients.curatorAs("bob:hidden");
                CuratorFramework nobody = Clients.curator()) {
            ann.create().withACL(Ids.CREATOR_ALL_ACL).forPath(root, Clients.bytes("mine"));
            Id id = new Id("digest", DigestAuthenticationProvider.generateDigest("ann:secret"));
            Check.equal(asList(new ACL(Perms.ALL, id)), ann.getACL().forPath(root), "the list that `auth` becomes");
            Check.equal("mine", Clients.text(ann.getData().forPath(root)), "the owner's data");
            for (CuratorFramework other : asList(bob, nobody)) {
                other.sync().forPath(root);
                refused(() -> other.getData().forPath(root), "get");
                refused(() -> other.setData().forPath(root, Clients.bytes("x")), "set");
                refused(() -> other.getChildren().forPath(root), "children");
                refused(() -> other.create().forPath(root + "/x"), "create");
                refused(() -> other.getACL().forPath(root), "getACL");
                refused(() -> other.setACL().withACL(Ids.OPEN_ACL_UNSAFE).forPath(root), "setACL");
                // Since ZooKeeper 3.9.2.
                refused(() -> other.checkExists().forPath(root), "exists");
            }
            // Who has proven nothing has no `auth` identity that a list could be made of.
            Check.refused(
                    KeeperException.InvalidACLException.class,
                    () -> nobody.create().withACL(Ids.CREATOR_ALL_ACL).forPath(root + "-nobody"),
                    "a list for `auth` of a client without identity");
            Check.refused(
                    KeeperException.InvalidACLException.class,
                    () -> nobody.create().withACL(asList(new ACL(Perms.ALL, new Id("no-such-scheme", "x")))).forPath(root + "-scheme"),
                    "a list of an unknown scheme");
        }
    }

    private static void refused(Check.Action action, String what) throws Exception {
        Check.refused(KeeperException.NoAuthException.class, action, what + " by another");
    }

    private static void eachKind(String root) throws Exception {
        try (CuratorFramework ann = Clients.curatorAs("ann:secret"); CuratorFramework nobody = Clients.curator()) {
            Id id = new Id("digest", DigestAuthenticationProvider.generateDigest("ann:secret"));
            List<ACL> list = asList(new ACL(Perms.ALL, id), new ACL(Perms.READ, Ids.ANYONE_ID_UNSAFE));
            ann.create().withACL(list).forPath(root, Clients.bytes("shown"));
            nobody.sync().forPath(root);
            Check.equal("shown", Clients.text(nobody.getData().forPath(root)), "data that all may read");
            refused(() -> nobody.setData().forPath(root, Clients.bytes("x")), "set");
            // Who may read but not administer sees who has access, but no digest to guess from.
            Check.equal(
                    asList(new ACL(Perms.ALL, new Id("digest", "ann:x")), new ACL(Perms.READ, Ids.ANYONE_ID_UNSAFE)),
                    sorted(nobody.getACL().forPath(root)),
                    "the list that others see");

            // Deletion is the parent's permission.
            List<ACL> noDelete = asList(new ACL(Perms.ALL & ~Perms.DELETE, Ids.ANYONE_ID_UNSAFE));
            ann.create().withACL(noDelete).forPath(root + "/parent");
            nobody.create().forPath(root + "/parent/child");
            refused(() -> nobody.delete().forPath(root + "/parent/child"), "delete");

            Stat stat = ann.setACL().withVersion(0).withACL(asList(new ACL(Perms.ALL, new Id("ip", "127.0.0.1")))).forPath(root);
            Check.equal(1, stat.getAversion(), "the version of the list");
            Check.refused(
                    KeeperException.BadVersionException.class,
                    () -> ann.setACL().withVersion(0).withACL(Ids.OPEN_ACL_UNSAFE).forPath(root),
                    "setACL of an old version");
            nobody.sync().forPath(root);
            nobody.setData().forPath(root, Clients.bytes("by address"));
            ann.setACL().withACL(asList(new ACL(Perms.ALL, new Id("ip", "10.0.0.0/8")))).forPath(root);
            nobody.sync().forPath(root);
            refused(() -> nobody.getData().forPath(root), "get from another network");
        }
    }

    private static void superUser(String root) throws Exception {
        try (CuratorFramework ann = Clients.curatorAs("ann:secret");
                CuratorFramework admin = Clients.curatorAs(SUPER);
                CuratorFramework wrong = Clients.curatorAs("super:wrong")) {
            ann.create().withACL(Ids.CREATOR_ALL_ACL).forPath(root, Clients.bytes("mine"));
            admin.sync().forPath(root);
            Check.equal("mine", Clients.text(admin.getData().forPath(root)), "what the super user reads");
            wrong.sync().forPath(root);
            refused(() -> wrong.getData().forPath(root), "get with a wrong password");
            admin.setACL().withACL(Ids.OPEN_ACL_UNSAFE).forPath(root);
            wrong.sync().forPath(root);
            Check.equal("mine", Clients.text(wrong.getData().forPath(root)), "what all may read then");
        }
    }

    private static List<ACL> sorted(List<ACL> list) {
        Collections.sort(list, (a, b) -> a.getId().getScheme().compareTo(b.getId().getScheme()));
        return list;
    }
}
