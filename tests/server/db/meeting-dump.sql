/*M!999999\- enable the sandbox mode */ 
-- MariaDB dump 10.19  Distrib 10.11.19-MariaDB, for debian-linux-gnu (x86_64)
--
-- Host: localhost    Database: meeting
-- ------------------------------------------------------
-- Server version	10.11.19-MariaDB-0+deb12u1

/*!40101 SET @OLD_CHARACTER_SET_CLIENT=@@CHARACTER_SET_CLIENT */;
/*!40101 SET @OLD_CHARACTER_SET_RESULTS=@@CHARACTER_SET_RESULTS */;
/*!40101 SET @OLD_COLLATION_CONNECTION=@@COLLATION_CONNECTION */;
/*!40101 SET NAMES utf8mb4 */;
/*!40103 SET @OLD_TIME_ZONE=@@TIME_ZONE */;
/*!40103 SET TIME_ZONE='+00:00' */;
/*!40014 SET @OLD_UNIQUE_CHECKS=@@UNIQUE_CHECKS, UNIQUE_CHECKS=0 */;
/*!40014 SET @OLD_FOREIGN_KEY_CHECKS=@@FOREIGN_KEY_CHECKS, FOREIGN_KEY_CHECKS=0 */;
/*!40101 SET @OLD_SQL_MODE=@@SQL_MODE, SQL_MODE='NO_AUTO_VALUE_ON_ZERO' */;
/*!40111 SET @OLD_SQL_NOTES=@@SQL_NOTES, SQL_NOTES=0 */;

--
-- Table structure for table `audit_things`
--

DROP TABLE IF EXISTS `audit_things`;
/*!40101 SET @saved_cs_client     = @@character_set_client */;
/*!40101 SET character_set_client = utf8mb4 */;
CREATE TABLE `audit_things` (
  `id` int(11) NOT NULL,
  `body` mediumblob DEFAULT NULL,
  `big` decimal(10,3) DEFAULT NULL,
  `when_at` datetime(6) DEFAULT NULL,
  PRIMARY KEY (`id`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci;
/*!40101 SET character_set_client = @saved_cs_client */;

--
-- Dumping data for table `audit_things`
--

LOCK TABLES `audit_things` WRITE;
/*!40000 ALTER TABLE `audit_things` DISABLE KEYS */;
INSERT INTO `audit_things` VALUES
(1,0x00FF27275C0A,-12.500,'2025-01-02 03:04:05.123456'),
(2,NULL,NULL,NULL);
/*!40000 ALTER TABLE `audit_things` ENABLE KEYS */;
UNLOCK TABLES;

--
-- Table structure for table `builder_users`
--

DROP TABLE IF EXISTS `builder_users`;
/*!40101 SET @saved_cs_client     = @@character_set_client */;
/*!40101 SET character_set_client = utf8mb4 */;
CREATE TABLE `builder_users` (
  `id` int(11) NOT NULL AUTO_INCREMENT,
  `username` varchar(64) NOT NULL,
  `password_hash` varchar(255) DEFAULT NULL,
  `role` varchar(32) DEFAULT 'user',
  `token` varchar(255) DEFAULT NULL,
  `ssh_pubkey` text DEFAULT NULL,
  `authorized` tinyint(1) DEFAULT 1,
  `created_at` datetime DEFAULT NULL,
  PRIMARY KEY (`id`)
) ENGINE=InnoDB AUTO_INCREMENT=4 DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci;
/*!40101 SET character_set_client = @saved_cs_client */;

--
-- Dumping data for table `builder_users`
--

LOCK TABLES `builder_users` WRITE;
/*!40000 ALTER TABLE `builder_users` DISABLE KEYS */;
INSERT INTO `builder_users` VALUES
(1,'alice','$2y$04$cdgcZp7aYE5nA9F9mXxq7Ouv2bTgu8.9pBuga9SItPC.7FQ7fjWem','admin','legacy-builder-token-of-alice-0001','ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFWI/XgSovqg1RakUrjXmNU9e6Wv1mzEcDMi7ldT3T5q alice@pc',1,'2024-05-06 07:08:09'),
(2,'bob',NULL,'builder',NULL,NULL,0,'2024-05-06 07:08:10'),
(3,'with space','x','user','t',NULL,1,NULL);
/*!40000 ALTER TABLE `builder_users` ENABLE KEYS */;
UNLOCK TABLES;

--
-- Table structure for table `connection_logs`
--

DROP TABLE IF EXISTS `connection_logs`;
/*!40101 SET @saved_cs_client     = @@character_set_client */;
/*!40101 SET character_set_client = utf8mb4 */;
CREATE TABLE `connection_logs` (
  `id` bigint(20) NOT NULL AUTO_INCREMENT,
  `device_key` varchar(128) NOT NULL,
  `timestamp` datetime NOT NULL,
  `event` varchar(64) NOT NULL,
  `host` varchar(255) DEFAULT NULL,
  `remote` varchar(64) DEFAULT NULL,
  PRIMARY KEY (`id`)
) ENGINE=InnoDB AUTO_INCREMENT=6 DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci;
/*!40101 SET character_set_client = @saved_cs_client */;

--
-- Dumping data for table `connection_logs`
--

LOCK TABLES `connection_logs` WRITE;
/*!40000 ALTER TABLE `connection_logs` DISABLE KEYS */;
INSERT INTO `connection_logs` VALUES
(1,'A0B1C2D3E4F5A6B7C8D9E0F1A2B3C4D5','2025-03-04 05:06:07','connect','proxy1','198.51.100.7:4000'),
(2,'A0B1C2D3E4F5A6B7C8D9E0F1A2B3C4D5','2025-03-04 05:06:07','connect','proxy1','198.51.100.7:4000'),
(3,'cam-2','2025-03-04 05:06:08','disconnect',NULL,NULL),
(4,'gone','2025-03-04 05:06:08','connect',NULL,NULL),
(5,'cam-2','0000-00-00 00:00:00','connect','h','r');
/*!40000 ALTER TABLE `connection_logs` ENABLE KEYS */;
UNLOCK TABLES;
/*!50003 SET @saved_cs_client      = @@character_set_client */ ;
/*!50003 SET @saved_cs_results     = @@character_set_results */ ;
/*!50003 SET @saved_col_connection = @@collation_connection */ ;
/*!50003 SET character_set_client  = utf8mb4 */ ;
/*!50003 SET character_set_results = utf8mb4 */ ;
/*!50003 SET collation_connection  = utf8mb4_general_ci */ ;
/*!50003 SET @saved_sql_mode       = @@sql_mode */ ;
/*!50003 SET sql_mode              = '' */ ;
DELIMITER ;;
/*!50003 CREATE*/ /*!50017 DEFINER=`root`@`localhost`*/ /*!50003 TRIGGER seen AFTER INSERT ON connection_logs FOR EACH ROW UPDATE devices SET last_seen = NEW.timestamp WHERE device_key = NEW.device_key 
*/;;
DELIMITER ;
/*!50003 SET sql_mode              = @saved_sql_mode */ ;
/*!50003 SET character_set_client  = @saved_cs_client */ ;
/*!50003 SET character_set_results = @saved_cs_results */ ;
/*!50003 SET collation_connection  = @saved_col_connection */ ;

--
-- Table structure for table `device_keys`
--

DROP TABLE IF EXISTS `device_keys`;
/*!40101 SET @saved_cs_client     = @@character_set_client */;
/*!40101 SET character_set_client = utf8mb4 */;
CREATE TABLE `device_keys` (
  `id` int(11) NOT NULL AUTO_INCREMENT,
  `device_key` varchar(128) NOT NULL,
  `ssh_user` varchar(32) DEFAULT NULL,
  `pubkey` text NOT NULL,
  `status` enum('authorized','revoked') DEFAULT 'authorized',
  `added` datetime DEFAULT NULL,
  `modified` datetime DEFAULT NULL,
  `fingerprint` varchar(128) DEFAULT NULL,
  `last_ssh` datetime DEFAULT NULL,
  PRIMARY KEY (`id`)
) ENGINE=InnoDB AUTO_INCREMENT=5 DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci;
/*!40101 SET character_set_client = @saved_cs_client */;

--
-- Dumping data for table `device_keys`
--

LOCK TABLES `device_keys` WRITE;
/*!40000 ALTER TABLE `device_keys` DISABLE KEYS */;
INSERT INTO `device_keys` VALUES
(1,'A0B1C2D3E4F5A6B7C8D9E0F1A2B3C4D5','device','ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFWI/XgSovqg1RakUrjXmNU9e6Wv1mzEcDMi7ldT3T5q cam@a','authorized','2025-02-03 04:05:06','2025-02-03 04:05:06',NULL,'2025-03-01 00:00:00'),
(2,'cam-2','tunnel','ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIARW5iAEOl2AmbAdNu7R0QpXVP22R2vL4vKR33Z1qeGn','revoked','2025-02-03 04:05:06','2025-02-04 04:05:06','SHA256:wrong',NULL),
(3,'cam-3','device','ssh-rsa nonsense','authorized',NULL,NULL,NULL,NULL),
(4,'gone','device','ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIARW5iAEOl2AmbAdNu7R0QpXVP22R2vL4vKR33Z1qeGn','authorized',NULL,NULL,NULL,NULL);
/*!40000 ALTER TABLE `device_keys` ENABLE KEYS */;
UNLOCK TABLES;

--
-- Table structure for table `device_types`
--

DROP TABLE IF EXISTS `device_types`;
/*!40101 SET @saved_cs_client     = @@character_set_client */;
/*!40101 SET character_set_client = utf8mb4 */;
CREATE TABLE `device_types` (
  `id` int(11) NOT NULL AUTO_INCREMENT,
  `name` varchar(128) NOT NULL,
  `serial_prefix` varchar(16) NOT NULL,
  `platform` varchar(64) DEFAULT NULL,
  `services_default` text DEFAULT NULL,
  `description` text DEFAULT NULL,
  `icon_path` varchar(255) DEFAULT NULL,
  `tags` text DEFAULT NULL,
  `default_distribution` varchar(128) DEFAULT NULL,
  `parent_id` int(11) DEFAULT NULL,
  `status` enum('active','deleted') NOT NULL DEFAULT 'active',
  `created_at` datetime DEFAULT NULL,
  `updated_at` datetime DEFAULT NULL,
  PRIMARY KEY (`id`)
) ENGINE=InnoDB AUTO_INCREMENT=5 DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci;
/*!40101 SET character_set_client = @saved_cs_client */;

--
-- Dumping data for table `device_types`
--

LOCK TABLES `device_types` WRITE;
/*!40000 ALTER TABLE `device_types` DISABLE KEYS */;
INSERT INTO `device_types` VALUES
(1,'rpicam','RPI','rpi','[\"ssh\",\"http\"]','Raspberry Pi camera','icons/rpi.png','camera,indoor','trixie',NULL,'active','2024-01-01 00:00:00','2024-01-02 00:00:00'),
(2,'rpicam-pro','RPP','rpi',NULL,NULL,NULL,NULL,NULL,1,'active','2024-01-01 00:00:00',NULL),
(3,'old','OLD',NULL,NULL,NULL,NULL,NULL,NULL,NULL,'deleted',NULL,NULL),
(4,'bad name!','X',NULL,NULL,NULL,NULL,NULL,NULL,NULL,'active',NULL,NULL);
/*!40000 ALTER TABLE `device_types` ENABLE KEYS */;
UNLOCK TABLES;

--
-- Table structure for table `devices`
--

DROP TABLE IF EXISTS `devices`;
/*!40101 SET @saved_cs_client     = @@character_set_client */;
/*!40101 SET character_set_client = utf8mb4 */;
CREATE TABLE `devices` (
  `id` int(10) unsigned NOT NULL AUTO_INCREMENT,
  `device_key` varchar(128) NOT NULL,
  `device_name` varchar(128) DEFAULT NULL COMMENT 'shown, may hold (brackets), commas and ''quotes''',
  `product_serial` varchar(64) DEFAULT NULL,
  `authorized` tinyint(1) NOT NULL DEFAULT 0,
  `token_code` varchar(16) DEFAULT NULL,
  `token_count` int(11) NOT NULL DEFAULT 0,
  `device_type` varchar(128) DEFAULT NULL,
  `distribution` varchar(128) DEFAULT NULL,
  `services` varchar(255) DEFAULT NULL,
  `note` text DEFAULT NULL,
  `bundles` longtext DEFAULT NULL,
  `ip_address` varchar(45) DEFAULT NULL,
  `ip_lan` varchar(45) DEFAULT NULL,
  `ip_public` varchar(45) DEFAULT NULL,
  `mac` varchar(17) DEFAULT NULL,
  `cluster_ip` varchar(255) DEFAULT NULL,
  `parent_device_key` varchar(128) DEFAULT NULL,
  `ghost_candidate_url` varchar(255) DEFAULT NULL,
  `ap_ssid` varchar(64) DEFAULT NULL,
  `ap_password` varchar(64) DEFAULT NULL,
  `http_pw_low` varchar(64) DEFAULT NULL,
  `http_pw_medium` varchar(64) DEFAULT NULL,
  `http_pw_high` varchar(64) DEFAULT NULL,
  `color` enum('red','blue') DEFAULT NULL,
  `registered_at` datetime DEFAULT NULL,
  `last_seen` datetime DEFAULT NULL,
  `created_at` timestamp NOT NULL DEFAULT current_timestamp(),
  PRIMARY KEY (`id`),
  UNIQUE KEY `device_key` (`device_key`),
  KEY `idx_type` (`device_type`,`distribution`)
) ENGINE=InnoDB AUTO_INCREMENT=6 DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci;
/*!40101 SET character_set_client = @saved_cs_client */;

--
-- Dumping data for table `devices`
--

LOCK TABLES `devices` WRITE;
/*!40000 ALTER TABLE `devices` DISABLE KEYS */;
INSERT INTO `devices` VALUES
(1,'A0B1C2D3E4F5A6B7C8D9E0F1A2B3C4D5','Caméra d\'entrée; (nord)','RPI-0001',1,'3fa9c1',2,'rpicam','trixie','ssh,http','line one\nline \"two\"\\ end; INSERT INTO devices VALUES (1)','[\"core\",\"av\"]','198.51.100.7',NULL,NULL,'b8:27:eb:01:02:03',NULL,NULL,NULL,'cam-A0B1','ap-secret-1','low1','medium1','high1','red','2025-02-03 04:05:06','2025-03-04 05:06:07','2025-01-01 00:00:00'),
(2,'cam-2',NULL,'RPI-0002',0,'00ABCD',0,'rpicam','trixie','[\"ssh\",\"vnc\",\"nonsense\"]',NULL,NULL,'999.1.1.1',NULL,NULL,'not-a-mac',NULL,'A0B1C2D3E4F5A6B7C8D9E0F1A2B3C4D5',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'2025-01-01 00:00:01'),
(3,'cam-3','日本 🎥','RPI-0002',1,'xyz',0,'rpicam',NULL,'',NULL,'no json',NULL,NULL,NULL,NULL,NULL,'missing-parent',NULL,NULL,NULL,NULL,NULL,NULL,'blue',NULL,'2025-03-04 05:06:07','2025-01-01 00:00:02'),
(4,'register','reserved',NULL,1,'AAAAAA',0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'2025-01-01 00:00:03'),
(5,'bad key/../x','bad',NULL,1,'AAAAAA',0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'2025-01-01 00:00:04');
/*!40000 ALTER TABLE `devices` ENABLE KEYS */;
UNLOCK TABLES;

--
-- Temporary table structure for view `on_devices`
--

DROP TABLE IF EXISTS `on_devices`;
/*!50001 DROP VIEW IF EXISTS `on_devices`*/;
SET @saved_cs_client     = @@character_set_client;
SET character_set_client = utf8mb4;
/*!50001 CREATE VIEW `on_devices` AS SELECT
 NULL AS `device_key` */;
SET character_set_client = @saved_cs_client;

--
-- Table structure for table `tunnel_ports`
--

DROP TABLE IF EXISTS `tunnel_ports`;
/*!40101 SET @saved_cs_client     = @@character_set_client */;
/*!40101 SET character_set_client = utf8mb4 */;
CREATE TABLE `tunnel_ports` (
  `port` int(11) NOT NULL,
  `device_key` varchar(128) DEFAULT NULL,
  `service` varchar(16) DEFAULT NULL,
  `local_port` int(11) DEFAULT NULL,
  `expires_at` datetime DEFAULT NULL,
  `created_at` datetime DEFAULT NULL,
  PRIMARY KEY (`port`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci;
/*!40101 SET character_set_client = @saved_cs_client */;

--
-- Dumping data for table `tunnel_ports`
--

LOCK TABLES `tunnel_ports` WRITE;
/*!40000 ALTER TABLE `tunnel_ports` DISABLE KEYS */;
INSERT INTO `tunnel_ports` VALUES
(9050,'cam-2','ssh',22,NULL,'2025-03-01 00:00:00'),
(9051,'A0B1C2D3E4F5A6B7C8D9E0F1A2B3C4D5','http',80,'2099-01-01 00:00:00',NULL),
(9052,'cam-2','http',80,'2025-03-01 01:00:00',NULL),
(9053,NULL,NULL,NULL,NULL,NULL),
(9054,'gone','ssh',22,NULL,NULL),
(9055,'cam-2','telnet',23,NULL,NULL),
(70000,'cam-2','vnc',5900,NULL,NULL);
/*!40000 ALTER TABLE `tunnel_ports` ENABLE KEYS */;
UNLOCK TABLES;

--
-- Table structure for table `update_channels`
--

DROP TABLE IF EXISTS `update_channels`;
/*!40101 SET @saved_cs_client     = @@character_set_client */;
/*!40101 SET character_set_client = utf8mb4 */;
CREATE TABLE `update_channels` (
  `id` int(11) NOT NULL AUTO_INCREMENT,
  `device_type` varchar(128) NOT NULL,
  `distribution` varchar(128) NOT NULL,
  `channel` varchar(128) NOT NULL DEFAULT 'default',
  `target_version` varchar(64) NOT NULL,
  `active` tinyint(1) DEFAULT 1,
  `created_at` datetime DEFAULT NULL,
  `updated_at` datetime DEFAULT NULL,
  PRIMARY KEY (`id`)
) ENGINE=InnoDB AUTO_INCREMENT=4 DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci;
/*!40101 SET character_set_client = @saved_cs_client */;

--
-- Dumping data for table `update_channels`
--

LOCK TABLES `update_channels` WRITE;
/*!40000 ALTER TABLE `update_channels` DISABLE KEYS */;
INSERT INTO `update_channels` VALUES
(1,'rpicam','trixie','default','1.2.3',1,'2025-01-01 00:00:00','2025-01-01 00:00:00'),
(2,'rpicam','trixie','beta','1.3.0-rc1',0,NULL,NULL),
(3,'bad/type','x','default','1',1,NULL,NULL);
/*!40000 ALTER TABLE `update_channels` ENABLE KEYS */;
UNLOCK TABLES;

--
-- Final view structure for view `on_devices`
--

/*!50001 DROP VIEW IF EXISTS `on_devices`*/;
/*!50001 SET @saved_cs_client          = @@character_set_client */;
/*!50001 SET @saved_cs_results         = @@character_set_results */;
/*!50001 SET @saved_col_connection     = @@collation_connection */;
/*!50001 SET character_set_client      = utf8mb4 */;
/*!50001 SET character_set_results     = utf8mb4 */;
/*!50001 SET collation_connection      = utf8mb4_general_ci */;
/*!50001 CREATE ALGORITHM=UNDEFINED */
/*!50013 DEFINER=`root`@`localhost` SQL SECURITY DEFINER */
/*!50001 VIEW `on_devices` AS select `devices`.`device_key` AS `device_key` from `devices` where `devices`.`authorized` = 1 */;
/*!50001 SET character_set_client      = @saved_cs_client */;
/*!50001 SET character_set_results     = @saved_cs_results */;
/*!50001 SET collation_connection      = @saved_col_connection */;
/*!40103 SET TIME_ZONE=@OLD_TIME_ZONE */;

/*!40101 SET SQL_MODE=@OLD_SQL_MODE */;
/*!40014 SET FOREIGN_KEY_CHECKS=@OLD_FOREIGN_KEY_CHECKS */;
/*!40014 SET UNIQUE_CHECKS=@OLD_UNIQUE_CHECKS */;
/*!40101 SET CHARACTER_SET_CLIENT=@OLD_CHARACTER_SET_CLIENT */;
/*!40101 SET CHARACTER_SET_RESULTS=@OLD_CHARACTER_SET_RESULTS */;
/*!40101 SET COLLATION_CONNECTION=@OLD_COLLATION_CONNECTION */;
/*!40111 SET SQL_NOTES=@OLD_SQL_NOTES */;

-- Dump completed
